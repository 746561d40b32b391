"""One institution with one asset, made beneath the wire: where benchmarks in the process open their positions."""

from app.assets import service as assets
from app.assets.model import Asset, TemplateDraft
from app.audit.service import Work
from app.context import Services
from app.institutions import service as institutions
from app.institutions.model import Region
from app.principal import root

OPERATION = "benchmark"


async def asset_of(services: Services) -> Asset:
    """A new institution's only asset; no policy limits what is opened on it."""
    institution_id = services.ids.new("inst")
    async with services.database.writing(institution_id) as connection:
        work = Work(connection, root(), "req_bench", None, OPERATION, services.clock(), services.ids)
        await institutions.create_institution(work, institution_id, name="Bench", regions=(Region.US,))
        draft = TemplateDraft("Bench", "CONSTR_ESCROW", Region.US, {"currency": "USD", "region": "US"})
        template = await assets.create_template(
            work, institution_id, draft, lifecycles=frozenset(services.lifecycles)
        )
        return await assets.create_asset(
            work, institution_id, template_id=template.id, label="Bench", metadata={}
        )
