import react from "@vitejs/plugin-react";
import { appendFileSync, readFileSync } from "node:fs";
import { defineConfig } from "vite";

const STATIC = "../../app/http/dashboard/static";
const FONTS = ["newsreader", "instrument-sans"];
const SERVER = process.env.ESCROWGRID ?? "http://127.0.0.1:8000";

export default defineConfig({
  base: "/dashboard/",
  plugins: [react(), fontLicenses()],
  server: {
    proxy: { "/graphql": { target: SERVER, ws: true }, "/graphiql": { target: SERVER } },
  },
  build: {
    outDir: STATIC,
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    license: { fileName: "licenses.md" },
  },
});

/** Vite lists the licenses of scripts; fonts have theirs, too. */
function fontLicenses() {
  return {
    name: "font-licenses",
    apply: "build",
    closeBundle() {
      for (const font of FONTS) {
        const license = readFileSync(`node_modules/@fontsource-variable/${font}/LICENSE`, "utf8");
        appendFileSync(`${STATIC}/licenses.md`, `\n## ${font} (OFL-1.1)\n\n${license.trim()}\n`);
      }
    },
  };
}
