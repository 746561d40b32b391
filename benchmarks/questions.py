"""What a dashboard asks: each question in our words, in PostGraphile's and in Mercurius's, about the same rows."""

from dataclasses import dataclass

from benchmarks.nested import PAGE

POSITION = "$position"
INSTITUTION = "$institution"


@dataclass(frozen=True)
class Question:
    """A question, how often `marker` stands in a right answer, and its words for each server."""

    name: str
    marker: bytes
    times: int
    ours: str
    mercurius: str
    postgraphile: str

    def words(self, server: str, position: str, institution: str) -> str:
        """The document for `ours`, `postgraphile` or `mercurius`, about that position."""
        found: str = getattr(self, server)
        return found.replace(POSITION, position).replace(INSTITUTION, institution)


# PostGraphile's words are those of the schema that it makes of the tables; our id is its rowId.
NESTED = Question(
    "nested_50x10",
    b'"recordedAt"',
    500,
    ours=PAGE,
    mercurius=PAGE,
    postgraphile="""{ allPositions(first: 50, orderBy: CREATED_AT_DESC) { edges { node { rowId state held amount
  currency assetByInstitutionIdAndAssetId { label assetTemplateByInstitutionIdAndTemplateId { code } }
  institutionByInstitutionId { name } ledgerEventsByInstitutionIdAndPositionId(first: 10) { edges { node {
  sequence newState amountMoved recordedAt held } } } } } } }""",
)
BY_ID = """{ position(id: "$position") { id state held amount currency expiresAt createdAt
  asset { label } institution { name } } }"""
ONE = Question(
    "position_by_id",
    b'"createdAt"',
    1,
    ours=BY_ID,
    mercurius=BY_ID,
    postgraphile="""{ positionByInstitutionIdAndRowId(institutionId: "$institution", rowId: "$position") { rowId
  state held amount currency expiresAt createdAt
  assetByInstitutionIdAndAssetId { label } institutionByInstitutionId { name } } }""",
)
# PostGraphile filters by columns that an index begins with, which a state is not.
FILTERED = Question(
    "positions_filtered",
    b'"createdAt"',
    50,
    ours="""{ positions(first: 50, where: {currency: {eq: "USD"}}) { edges { node {
  id state held amount currency createdAt } } pageInfo { hasNextPage endCursor } } }""",
    mercurius="""{ positions(first: 50, currency: "USD") { edges { node {
  id state held amount currency createdAt } } pageInfo { hasNextPage endCursor } } }""",
    postgraphile="""{ allPositions(first: 50, orderBy: CREATED_AT_DESC, condition: {currency: "USD"}) { edges { node {
  rowId state held amount currency createdAt } } pageInfo { hasNextPage endCursor } } }""",
)
SUMMARY_PAGE = "{ positionSummary(groupBy: [STATE]) { state currency count amount held } }"
# PostGraphile groups by a plugin that is not its own, or by a view, which is what it is given.
SUMMARY = Question(
    "summary_by_state",
    b'"count"',
    1,
    ours=SUMMARY_PAGE,
    mercurius=SUMMARY_PAGE,
    postgraphile="{ allPeersPositionSummaries { nodes { state currency count amount held } } }",
)

QUESTIONS = (NESTED, ONE, FILTERED, SUMMARY)
