"""Superset's configuration on the stand. What a deployment behind a balancer needs is marked with (*)."""

import os

from cachelib.redis import RedisCache
from redis import Redis

_SERVICES = os.environ["STAND_SERVICES"]  # address of PostgreSQL and Redis

# (*) The same for every replica: it signs sessions and tokens. This one is for a lab that nobody reaches.
SECRET_KEY = os.environ.get("STAND_SECRET_KEY", "a key that every replica of the stand has")

# (*) With a limit for connecting, so that a database that is away costs seconds and not a thread.
SQLALCHEMY_DATABASE_URI = f"postgresql+psycopg2://postgres@{_SERVICES}/superset?connect_timeout=3"
# (*) A query in SQL Lab holds two connections to the metadata for as long as it takes: two for each thread of a worker. The
# default of 15 is too few for 8 threads, and the last query fails after 30 s.
SQLALCHEMY_ENGINE_OPTIONS = {"pool_pre_ping": True, "pool_size": 10, "max_overflow": 10}

# (*) Sessions in Redis: whoever logs in at one replica is logged in at all of them.
SESSION_SERVER_SIDE = True
SESSION_TYPE = "redis"
_SESSION_DB = int(os.environ.get("STAND_SESSION_DB", "0"))
SESSION_REDIS = Redis(host=_SERVICES, port=6379, db=_SESSION_DB, socket_connect_timeout=3)

# (*) And what one replica has cached, such as a chart's form, the others find as well.
def _cache(prefix):
    return {
        "CACHE_TYPE": "RedisCache",
        "CACHE_DEFAULT_TIMEOUT": 300,
        "CACHE_KEY_PREFIX": prefix,
        "CACHE_REDIS_HOST": _SERVICES,
        "CACHE_REDIS_DB": 1,
    }


CACHE_CONFIG = _cache("metadata_")
DATA_CACHE_CONFIG = _cache("data_")
FILTER_STATE_CACHE_CONFIG = _cache("filter_")
EXPLORE_FORM_DATA_CACHE_CONFIG = _cache("explore_")
RESULTS_BACKEND = RedisCache(host=_SERVICES, db=2, key_prefix="results_")

# (*) Behind nginx with TLS, X-Forwarded-Proto says what the browser used.
ENABLE_PROXY_FIX = True

# (*) All clients of a balancer that translates have one address: limits by address would be limits for all together.
RATELIMIT_ENABLED = False
AUTH_RATE_LIMITED = False

# (*) Longer than the longest query, as gunicorn's timeout is.
SQLLAB_TIMEOUT = 300
SUPERSET_WEBSERVER_TIMEOUT = 300

# For tests only: pg_sleep is a query that takes as long as one likes, and each answer says whose it is.
DISALLOWED_SQL_FUNCTIONS = {}
DEFAULT_HTTP_HEADERS = {"X-Replica": os.environ.get("STAND_REPLICA", "none")}
CONTENT_SECURITY_POLICY_WARNING = False
