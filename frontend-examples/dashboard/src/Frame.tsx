import { type ReactNode, useEffect, useRef, useState } from "react";
import { Mark } from "./pieces/Mark";
import { Link, entry, usePlace } from "./route";
import { Administration } from "./screens/Administration";
import { Live } from "./screens/Live";
import { Portfolio } from "./screens/Portfolio";
import { Position } from "./screens/Position";
import { Positions } from "./screens/Positions";
import { useFeed, useSession } from "./session";
import { type Theme, applyTheme, theme } from "./theme";
import { clock } from "./time";
import { plain } from "./words";

const SCREENS = [
  { href: "/", name: "Portfolio" },
  { href: "/positions", name: "Positions" },
  { href: "/live", name: "Live" },
  { href: "/administration", name: "Administration" },
];

/** What is around every screen: where one can go, who asks, whether the page is live. */
export function Frame({ onForget }: { onForget(): void }) {
  const { path } = usePlace();
  const main = useRef<HTMLElement>(null);
  const isFirst = useRef(true);
  const { name, screen } = screenOf(path);
  const isAdmin = useIsAdmin();

  useEffect(() => {
    document.title = `${name} · Escrowgrid`;
    // A new screen is read from its beginning, by eyes and by screen readers.
    if (!isFirst.current) main.current?.focus();
    isFirst.current = false;
    scrollTo(0, 0);
  }, [path, name]);

  return (
    <div className="frame">
      <a className="skip" href="#main">
        Skip to the content
      </a>
      <header className="rail">
        <Link className="wordmark" href="/">
          <Mark /> Escrowgrid
        </Link>
        <nav aria-label="Screens">
          {SCREENS.filter(({ href }) => href !== "/administration" || isAdmin).map((one) => (
            <Link key={one.href} href={one.href} aria-current={isWithin(path, one.href) ? "page" : undefined}>
              {one.name}
            </Link>
          ))}
        </nav>
        <Standing />
        <Asker onForget={onForget} />
      </header>
      <main id="main" ref={main} tabIndex={-1}>
        {screen}
      </main>
    </div>
  );
}

function useIsAdmin(): boolean {
  const { scopes } = useSession().viewer;
  return (["TEMPLATES_WRITE", "POLICIES_WRITE", "KEYS_WRITE"] as const).some((scope) => scopes.includes(scope));
}

function screenOf(path: string): { name: string; screen: ReactNode } {
  const id = /^\/positions\/(\w+)$/.exec(path)?.[1];
  if (id) return { name: "Position", screen: <Position key={id} id={id} /> };
  if (path === "/positions") return { name: "Positions", screen: <Positions key={entry()} /> };
  if (path === "/live") return { name: "Live", screen: <Live /> };
  if (path === "/administration") return { name: "Administration", screen: <Administration /> };
  return { name: "Portfolio", screen: <Portfolio /> };
}

const isWithin = (path: string, href: string): boolean =>
  href === "/" ? path === "/" : path === href || path.startsWith(`${href}/`);

function Standing() {
  const { standing, gaps } = useFeed();
  const lostAt = gaps[0]?.lostAt;
  const said = {
    connecting: "Connecting",
    live: "Live",
    lost: lostAt ? `Connection lost at ${clock(lostAt)}, trying again` : "The server does not answer, trying again",
  }[standing];
  return (
    <p className={`standing is-${standing}`} role="status">
      {said}
    </p>
  );
}

function Asker({ onForget }: { onForget(): void }) {
  const { viewer, institutions, institution, choose } = useSession();
  const [chosen, setChosen] = useState<Theme>(theme);
  return (
    <div className="asker">
      {institutions.length > 1 && (
        <label>
          <span className="caption">Institution</span>
          <select value={institution ?? ""} onChange={({ target }) => choose(target.value || null)}>
            <option value="">All institutions</option>
            {institutions.map(({ id, name }) => (
              <option key={id} value={id}>
                {name}
              </option>
            ))}
          </select>
        </label>
      )}
      <p className="who">
        <strong>{viewer.institution?.name ?? plain(viewer.label ?? viewer.role)}</strong>
        <span>
          {viewer.institution ? `${viewer.label}, ${plain(viewer.role).toLowerCase()}` : "sees every institution"}
        </span>
      </p>
      <label>
        <span className="caption">Appearance</span>
        <select
          value={chosen}
          onChange={({ target }) => {
            const next = target.value as Theme;
            setChosen(next);
            applyTheme(next);
          }}
        >
          <option value="system">As the system</option>
          <option value="light">Light</option>
          <option value="dark">Dark</option>
        </select>
      </label>
      <div className="asker-ways">
        <a href="/graphql">GraphiQL</a>
        <button type="button" className="plain" onClick={onForget}>
          Use another key
        </button>
      </div>
    </div>
  );
}
