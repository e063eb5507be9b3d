"""The request budget: how many requests may be sent, and when."""

from connector.upstream.budget.budget import Budget, Permit, Spending
from connector.upstream.budget.month import Month, MonthFigures
from connector.upstream.budget.share import TakenOverShare

__all__ = ["Budget", "Month", "MonthFigures", "Permit", "Spending", "TakenOverShare"]
