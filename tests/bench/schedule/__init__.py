"""Compare schedules of checks in virtual time: delays of refreshes, and the requests they take."""
