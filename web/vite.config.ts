import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

// `server.proxy`: `npx vite` shows the page while it is written, over a service on the usual port.
export default defineConfig({
  plugins: [react()],
  build: {
    outDir: "../service/tapeworks_service/web/dist",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 2000,
  },
  server: {
    fs: { allow: [".."] },
    proxy: { "/v1": "http://127.0.0.1:8000", "/readyz": "http://127.0.0.1:8000", "/openapi.json": "http://127.0.0.1:8000" },
  },
  test: { include: ["tests/**/*.test.ts"] },
});
