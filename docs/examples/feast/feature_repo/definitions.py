"""What users spend, as Feast knows it: `feast apply` reads this file."""

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)

user_spend = FeatureView(
    name="user_spend",
    entities=[user],
    ttl=timedelta(days=1),
    schema=[Field(name="spend_30d", dtype=Float64), Field(name="payments_30d", dtype=Int64)],
    source=FileSource(name="spend", path="spend.parquet", timestamp_field="at"),
)
