from tests import factories
from app.positions.model import State
async def test_it(services, owner):
    p = await factories.place(services)
    for s in State:
        x = await factories.position(services, p.asset, state=s)
        assert x.state == s
    print(await factories.footprint(owner))
