import "./styles/fonts.css";
import "./styles/theme.css";
import "./styles/frame.css";
import "./styles/pieces.css";
import "./styles/screens.css";
import { createRoot } from "react-dom/client";
import { App } from "./App";
import { offered } from "./keys";
import { applyTheme } from "./theme";

applyTheme();
const offers = await offered();
createRoot(document.getElementById("page")!).render(<App offers={offers} />);
