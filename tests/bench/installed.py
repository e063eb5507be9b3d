"""Run the connector as it is installed for users: `python -m tests.bench.installed run ...`.

httpx imports rich and click if it finds them. Only development tools need them, and they
take a tenth of a second of every start.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # An import of such a module fails, as if it were not installed.
    for name in ("rich", "click"):
        sys.modules[name] = None  # type: ignore[assignment] # documented, but not typed

    from connector.cli import main

    main()
