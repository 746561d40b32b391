"""The column types and the one metadata that every slice's tables share."""

from sqlalchemy import MetaData, Numeric, Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP

metadata = MetaData()

Id = Text(collation="C")
Word = Text(collation="C")
Money = Numeric(asdecimal=True)
Moment = TIMESTAMP(timezone=True)
Document = JSONB(none_as_null=True)
