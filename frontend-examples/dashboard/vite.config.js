import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const SERVER = process.env.ESCROWGRID ?? "http://127.0.0.1:8000";

export default defineConfig({
  base: "/dashboard/",
  plugins: [react()],
  server: {
    proxy: { "/graphql": { target: SERVER, ws: true }, "/graphiql": { target: SERVER } },
  },
  build: {
    outDir: "../../app/http/dashboard/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    license: { fileName: "licenses.md" },
  },
});
