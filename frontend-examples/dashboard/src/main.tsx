import "./styles/fonts.css";
import "./styles/theme.css";
import "./styles/frame.css";
import "./styles/pieces.css";
import "./styles/forms.css";
import "./styles/tables.css";
import "./styles/screens.css";
import { createRoot } from "react-dom/client";
import { App } from "./App";
import { offered } from "./keys";
import { applyTheme } from "./theme";

const FONTS_MS_MAX = 800;

// With the fonts there from the beginning, nothing moves when they come.
function fonts(): Promise<unknown> {
  const wanted = ["400 1em Newsreader", "400 1em 'Instrument Sans'"].map((font) => document.fonts.load(font));
  return Promise.race([Promise.all(wanted), new Promise((resolve) => setTimeout(resolve, FONTS_MS_MAX))]);
}

applyTheme();
const [offers] = await Promise.all([offered(), fonts().catch(() => null)]);
createRoot(document.getElementById("page")!).render(<App offers={offers} />);
