import { useState } from "react";

const OTHER = "";

/** Takes the API key and says what the server makes of it. */
export function KeyBar({ entry, offered, standing, stream, onEntry }) {
  const [typed, setTyped] = useState("");
  const isOffered = offered.some(({ key }) => key === entry?.key);

  function submit(event) {
    event.preventDefault();
    const key = typed.trim().replace(/^Bearer\s+/i, "");
    if (key) onEntry({ key });
    setTyped("");
  }

  return (
    <form className="bar-key" onSubmit={submit} autoComplete="off">
      <output className={`bar-standing is-${standing.is}`}>{words(standing)}</output>
      {stream === "lost" && <output className="bar-standing is-checking">Reconnecting the stream…</output>}
      {offered.length > 0 && (
        <select
          aria-label="Development key"
          value={isOffered ? entry.key : OTHER}
          onChange={({ target }) => onEntry(offered.find(({ key }) => key === target.value) ?? null)}
        >
          {!isOffered && <option value={OTHER}>{entry ? "Own key" : "Choose a key"}</option>}
          {offered.map(({ label, key }) => (
            <option key={key} value={key}>
              {label}
            </option>
          ))}
        </select>
      )}
      <input
        type="password"
        aria-label="API key"
        placeholder="API key"
        autoComplete="off"
        spellCheck={false}
        value={typed}
        onChange={({ target }) => setTyped(target.value)}
      />
      {entry && !typed ? (
        <button type="button" key="forget" onClick={() => onEntry(null)}>
          Forget key
        </button>
      ) : (
        <button type="submit" key="use" disabled={!typed.trim()}>
          Use key
        </button>
      )}
    </form>
  );
}

function words({ is, viewer, why }) {
  switch (is) {
    case "checking":
      return "Checking the key…";
    case "known":
      return viewer ? `Connected as ${viewer.label}${role(viewer)}` : "Key accepted";
    case "refused":
      return `Key refused${why ? `: ${why}` : ": unknown, revoked or expired"}`;
    case "wanted":
      return "No key: the server wants one, enter it here";
    case "unreachable":
      return "The server does not answer";
    default:
      return "No key";
  }
}

function role(viewer) {
  const said = String(viewer.role).toLowerCase().replaceAll("_", " ");
  return said === viewer.label.toLowerCase() ? "" : ` (${said})`;
}
