import { useMay } from "../session";
import { Link, usePlace } from "../route";
import { Keys } from "./Keys";
import { Policies } from "./Policies";
import { Templates } from "./Templates";

const PARTS = [
  { name: "Templates", scope: "TEMPLATES_WRITE", screen: Templates },
  { name: "Policies", scope: "POLICIES_WRITE", screen: Policies },
  { name: "Keys", scope: "KEYS_WRITE", screen: Keys },
] as const;

/** What positions are made from, what is allowed, and who may ask. */
export function Administration() {
  const { search } = usePlace();
  const may = { Templates: useMay("TEMPLATES_WRITE"), Policies: useMay("POLICIES_WRITE"), Keys: useMay("KEYS_WRITE") };
  const parts = PARTS.filter(({ name }) => may[name]);
  const part = parts.find(({ name }) => name.toLowerCase() === search.get("of")) ?? parts[0];
  return (
    <div className="screen administration">
      <h1>Administration</h1>
      <nav className="choices" aria-label="Parts of the administration">
        {parts.map(({ name }) => (
          <Link
            key={name}
            href={`/administration?of=${name.toLowerCase()}`}
            aria-current={name === part?.name ? "page" : undefined}
          >
            {name}
          </Link>
        ))}
      </nav>
      {part ? <part.screen /> : <p role="alert">This key administers nothing.</p>}
    </div>
  );
}
