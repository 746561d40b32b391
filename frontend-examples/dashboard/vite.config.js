import react from "@vitejs/plugin-react";
import { createHash } from "node:crypto";
import { appendFileSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { defineConfig } from "vite";

const STATIC = "../../app/http/dashboard/static";
const FONTS = ["newsreader", "instrument-sans"];
const SERVER = process.env.ESCROWGRID ?? "http://127.0.0.1:8000";

export default defineConfig({
  base: "/dashboard/",
  plugins: [react(), fontLicenses(), builtFrom()],
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

/** Says from what it was built, so that a test finds out when the page is older than its source. */
function builtFrom() {
  return {
    name: "built-from",
    apply: "build",
    closeBundle() {
      const files = readdirSync("src", { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile() && entry.name !== "generated.ts")
        .map((entry) => `${entry.parentPath}/${entry.name}`.replaceAll("\\", "/"));
      const hash = createHash("sha256");
      for (const file of ["index.html", "package-lock.json", ...files].sort()) {
        hash.update(file).update(readFileSync(file));
      }
      writeFileSync(`${STATIC}/built-from.txt`, `${hash.digest("hex")}\n`);
    },
  };
}
