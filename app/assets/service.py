"""Makes templates and assets, and reads them; a cache tells what an asset's template says."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.assets import store
from app.assets.codes import CODES, TemplateCode
from app.assets.config import check_config
from app.assets.metadata import check_metadata, check_schema
from app.assets.model import (
    LABEL_LENGTH_MAX,
    NAME_LENGTH_MAX,
    Asset,
    AssetTemplate,
    Lifecycle,
    TemplateDraft,
    check_lifecycle,
    check_onchain,
    check_place,
    check_successor,
    check_word,
)
from app.assets.objects import check_object
from app.audit import service as audit
from app.audit.model import Action
from app.audit.service import Work
from app.errors import Invalid, NotFound
from app.institutions import service as institutions
from app.kit.canonical import Json
from app.kit.ids import is_id
from app.storage.conditions import Condition
from app.storage.paging import Page, PageRequest

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

Pair = tuple[Asset, AssetTemplate]


async def create_template(
    work: Work,
    institution_id: str,
    draft: TemplateDraft,
    *,
    lifecycles: frozenset[Lifecycle],
    codes: Mapping[str, TemplateCode] = CODES,
) -> AssetTemplate:
    """Make the next version of the template of that name, the first one when there is none."""
    code = _checked(draft, lifecycles, codes)
    institution = await institutions.fetch(work.connection, institution_id, institution_id)
    if institution is None:
        raise NotFound("institution", "institutionId")
    check_place(draft, code, institution)
    await store.lock_name(work.connection, institution_id, draft.name)
    previous = await store.newest_template(work.connection, institution_id, draft.name)
    if previous is not None:
        check_successor(draft, previous)
    template = AssetTemplate(
        id=work.ids.new("tmpl"),
        institution_id=institution_id,
        name=draft.name,
        version=previous.version + 1 if previous is not None else 1,
        code=code.code,
        vertical=code.vertical,
        region=draft.region,
        lifecycle_name=draft.lifecycle[0],
        lifecycle_version=draft.lifecycle[1],
        config=draft.config,
        metadata_schema=draft.metadata_schema,
        onchain_enabled=draft.onchain_enabled,
        onchain_chain_id=draft.onchain_chain_id,
        created_at=work.now,
    )
    await store.insert_template(work.connection, institution_id, template)
    await audit.record(
        work,
        action=Action.ASSET_TEMPLATE_CREATED,
        resource_type="assetTemplate",
        resource_id=template.id,
        institution_id=institution_id,
        payload={"code": template.code, "version": template.version},
    )
    return template


def _checked(
    draft: TemplateDraft, lifecycles: frozenset[Lifecycle], codes: Mapping[str, TemplateCode]
) -> TemplateCode:
    check_word(draft.name, "name", length_max=NAME_LENGTH_MAX)
    code = codes.get(draft.code)
    if code is None:
        raise Invalid(f"there is no such code; there are {', '.join(codes)}", "code")
    check_config(code, check_object(draft.config, "config"), draft.region)
    check_lifecycle(draft.lifecycle, lifecycles)
    check_onchain(enabled=draft.onchain_enabled, chain_id=draft.onchain_chain_id)
    if draft.metadata_schema is not None:
        check_schema(draft.metadata_schema)
    return code


async def create_asset(
    work: Work, institution_id: str, *, template_id: str, label: str, metadata: Mapping[str, Json]
) -> Asset:
    """Make an asset of one version of a template."""
    check_word(label, "label", length_max=LABEL_LENGTH_MAX)
    template = (await templates_by_id(work.connection, institution_id, [template_id])).get(template_id)
    if template is None:
        raise NotFound("asset template", "templateId")
    asset = Asset(
        id=work.ids.new("ast"),
        institution_id=institution_id,
        template_id=template_id,
        label=label,
        metadata=check_metadata(template, metadata),
        created_at=work.now,
        updated_at=work.now,
    )
    await store.insert_asset(work.connection, institution_id, asset)
    await audit.record(
        work,
        action=Action.ASSET_CREATED,
        resource_type="asset",
        resource_id=asset.id,
        institution_id=institution_id,
        # Not the metadata: it may be personal, and the audit forgets nothing.
        payload={"templateId": template_id, "label": label},
    )
    return asset


async def fetch_terms_each(
    connection: "AsyncConnection", scope: str, asset_ids: Sequence[str]
) -> Mapping[str, Pair]:
    """Assets with their templates, which say what is enforced on positions; what `scope` does not see is missing."""
    found = await assets_by_id(connection, scope, asset_ids)
    template_ids = sorted({asset.template_id for asset in found.values()})
    templates = await store.templates_by_id(connection, scope, template_ids)
    return {key: (asset, templates[asset.template_id]) for key, asset in found.items()}


async def templates_by_id(
    connection: "AsyncConnection", scope: str, ids: Sequence[str]
) -> Mapping[str, AssetTemplate]:
    """Templates by id; what is not spelled like one is not there."""
    return await store.templates_by_id(connection, scope, [key for key in ids if is_id(key, "tmpl")])


async def assets_by_id(connection: "AsyncConnection", scope: str, ids: Sequence[str]) -> Mapping[str, Asset]:
    """Assets by id; what is not spelled like one is not there."""
    return await store.assets_by_id(connection, scope, [key for key in ids if is_id(key, "ast")])


async def page_templates(
    connection: "AsyncConnection",
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition] = (),
    *,
    order_by: str = store.CREATED_AT,
    descending: bool = True,
) -> Page[AssetTemplate]:
    """One page of templates, every version a row."""
    return await store.page_templates(
        connection, scope, request, conditions, order_by=order_by, descending=descending
    )


async def page_assets(
    connection: "AsyncConnection",
    scope: str,
    request: PageRequest,
    conditions: Sequence[Condition] = (),
    *,
    order_by: str = store.CREATED_AT,
    descending: bool = True,
) -> Page[Asset]:
    """One page of assets."""
    return await store.page_assets(
        connection, scope, request, conditions, order_by=order_by, descending=descending
    )


async def page_assets_each(
    connection: "AsyncConnection",
    scope: str,
    templates: Sequence[tuple[str, str]],
    request: PageRequest,
    conditions: Sequence[Condition] = (),
    *,
    order_by: str = store.CREATED_AT,
    descending: bool = True,
) -> Mapping[tuple[str, str], Page[Asset]]:
    """For each template, given as (institution, id), a page of its assets."""
    institution_ids = sorted({institution_id for institution_id, _ in templates})
    template_ids = [template_id for _, template_id in templates]
    found = await store.page_assets_each(
        connection,
        scope,
        institution_ids,
        template_ids,
        request,
        conditions,
        order_by=order_by,
        descending=descending,
    )
    return {template: found[template[1]] for template in templates}


async def count_templates(
    connection: "AsyncConnection", scope: str, conditions: Sequence[Condition] = ()
) -> int:
    """How many templates the list has."""
    return await store.count_templates(connection, scope, conditions)


async def count_assets(
    connection: "AsyncConnection", scope: str, conditions: Sequence[Condition] = ()
) -> int:
    """How many assets the list has."""
    return await store.count_assets(connection, scope, conditions)


async def count_assets_each(
    connection: "AsyncConnection",
    scope: str,
    templates: Sequence[tuple[str, str]],
    conditions: Sequence[Condition] = (),
) -> Mapping[tuple[str, str], int]:
    """For each template, given as (institution, id), how many assets it has."""
    institution_ids = sorted({institution_id for institution_id, _ in templates})
    template_ids = [template_id for _, template_id in templates]
    found = await store.count_assets_each(connection, scope, institution_ids, template_ids, conditions)
    return {template: found[template[1]] for template in templates}
