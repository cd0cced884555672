"""An asyncio client for the Capillary targets API: its members' targets and their events."""

from . import endpoints
from .auth import BasicAuth, OAuth
from .client import Sweep, TargetsClient
from .errors import (
    ApiError,
    AuthError,
    AuthorizationUnavailable,
    BadResponse,
    CapillaryError,
    ClientClosed,
    ConnectionFailed,
    EndpointGone,
    InvalidEnrollmentType,
    InvalidUser,
    NoRecordFound,
    RateLimited,
    RequestTimeout,
    ServerBusy,
    ServiceUnavailable,
    TargetPeriodNotFound,
    TargetRuleNotFound,
    UsageError,
)
from .fanout import UserOutcome
from .hooks import Hook, RequestDetails, RetryDetails, WaitDetails
from .models import (
    Actor,
    ApiWarning,
    Attribution,
    AudienceFilter,
    EventsPage,
    ExtendedField,
    Filter,
    MilestoneTrigger,
    Pagination,
    PeriodDefault,
    Target,
    TargetEvent,
)
from .pager import EventPager
from .pagination import PagingReport
from .retry import RetryPolicy
from .session import Session, open_session

__all__ = [
    "Actor",
    "ApiError",
    "ApiWarning",
    "Attribution",
    "AudienceFilter",
    "AuthError",
    "AuthorizationUnavailable",
    "BadResponse",
    "BasicAuth",
    "CapillaryError",
    "ClientClosed",
    "ConnectionFailed",
    "EndpointGone",
    "EventPager",
    "EventsPage",
    "ExtendedField",
    "Filter",
    "Hook",
    "InvalidEnrollmentType",
    "InvalidUser",
    "MilestoneTrigger",
    "NoRecordFound",
    "OAuth",
    "Pagination",
    "PagingReport",
    "PeriodDefault",
    "RateLimited",
    "RequestDetails",
    "RequestTimeout",
    "RetryDetails",
    "RetryPolicy",
    "ServerBusy",
    "ServiceUnavailable",
    "Session",
    "Sweep",
    "Target",
    "TargetEvent",
    "TargetPeriodNotFound",
    "TargetRuleNotFound",
    "TargetsClient",
    "UsageError",
    "UserOutcome",
    "WaitDetails",
    "endpoints",
    "open_session",
]
