"""Every `where` and every `orderBy` of every list is served by an index, as the api role, at 100,000 positions.

The cases come from the GraphQL schema, so that a new field is tested by being there. Each is asked through the real
resolvers; the SQL they send is explained with its parameters as the role `escrowgrid_api` within the asker's scope, and
the plan is judged, never the time. A filter may do without an index of its own only where its GraphQL description says
so; it then looks at rows of one institution in the order of the list, which an index gives.
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
)
from sqlalchemy import event

from app import schema as schemas
from app.context import Context, Request
from app.principal import Principal, root
from app.settings import Settings

from .conftest import INSTITUTIONS, Crowd, tenant
