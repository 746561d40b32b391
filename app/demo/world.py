"""What the demo world consists of, as data."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.institutions.model import Region, Vertical
from app.kit.canonical import Json


@dataclass(frozen=True, slots=True)
class DemoTemplate:
    """A template and the assets made from it."""

    name: str
    code: str
    region: Region
    config: Mapping[str, Json]
    schema: Mapping[str, Json] | None
    assets: tuple[tuple[str, Mapping[str, Json]], ...]


@dataclass(frozen=True, slots=True)
class DemoInstitution:
    """An institution, what it allows, and what it works with."""

    name: str
    regions: tuple[Region, ...]
    verticals: tuple[Vertical, ...]
    max_amount: str
    currencies: tuple[str, ...]
    templates: tuple[DemoTemplate, ...]
    holders: tuple[str, ...]


_SITE: Mapping[str, Json] = {
    "type": "object",
    "required": ["site", "contractor"],
    "properties": {
        "site": {"type": "string", "minLength": 1},
        "contractor": {"type": "string", "minLength": 1},
        "floors": {"type": "integer", "minimum": 1},
    },
}
_CARGO: Mapping[str, Json] = {
    "type": "object",
    "required": ["goods", "incoterm"],
    "properties": {
        "goods": {"type": "string", "minLength": 1},
        "incoterm": {"enum": ["FOB", "CIF", "EXW", "DAP"]},
        "tonnes": {"type": "number", "exclusiveMinimum": 0},
    },
}

WORLD = (
    DemoInstitution(
        "Harbor Trust",
        (Region.US, Region.EU_UK),
        (Vertical.CONSTRUCTION,),
        "5000000",
        ("USD", "EUR"),
        (
            DemoTemplate(
                "Building escrow",
                "CONSTR_ESCROW",
                Region.US,
                {"currency": "USD", "region": "US", "minAmount": "1000.00", "maxAmount": "5000000.00"},
                _SITE,
                (
                    ("Pier 9 lofts", {"site": "Pier 9, Boston", "contractor": "Alder Build", "floors": 6}),
                    ("Elm Street school", {"site": "12 Elm Street, Salem", "contractor": "Northgate Works"}),
                ),
            ),
            DemoTemplate(
                "Retained payments",
                "CONSTR_RETAINAGE",
                Region.EU_UK,
                {"currency": "EUR", "retainagePercentage": 10},
                None,
                (("Rotterdam quay wall", {}),),
            ),
        ),
        ("ALDER-001", "NORTHGATE-17", "QUAY-PARTNERS"),
    ),
    DemoInstitution(
        "Lion City Trade Bank",
        (Region.SG, Region.UAE),
        (Vertical.TRADE_FINANCE,),
        "20000000",
        ("SGD", "USD"),
        (
            DemoTemplate(
                "Export invoices",
                "TF_INVOICE",
                Region.SG,
                {"currency": "SGD", "maxTenorDays": 180, "country": "SG"},
                _CARGO,
                (
                    ("Palm oil, MV Selat", {"goods": "palm oil", "incoterm": "FOB", "tonnes": 1200}),
                    ("Chip testers", {"goods": "test machines", "incoterm": "DAP"}),
                ),
            ),
            DemoTemplate(
                "Letters of credit",
                "TF_LC",
                Region.UAE,
                {"currency": "USD", "issuingBankCountry": "AE", "maxTenorDays": 365},
                None,
                (("Aluminium, Jebel Ali", {}),),
            ),
        ),
        ("SELAT-SHIPPING", "PRECISION-PTE", "GULF-METALS"),
    ),
    DemoInstitution(
        "Meridian Escrow",
        (Region.EU_UK, Region.US),
        (Vertical.CONSTRUCTION, Vertical.TRADE_FINANCE),
        "1000000",
        ("GBP", "EUR"),
        (
            DemoTemplate(
                "House sales",
                "CONSTR_ESCROW",
                Region.EU_UK,
                {"currency": "GBP", "region": "EU_UK"},
                None,
                (("Mill Lane 4", {}), ("Canal House", {})),
            ),
        ),
        ("BUYER-204", "BUYER-311", "AGENT-NORTH"),
    ),
)
