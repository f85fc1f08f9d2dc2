// Debian's Chromium; CHROMIUM names another. Pages come from `cargo test --lib preview -- --ignored`.
import { defineConfig } from "@playwright/test";

export default defineConfig({
  testDir: ".",
  timeout: 180_000,
  workers: 1,
  reporter: "list",
  outputDir: "../../target/browser-tests",
  use: {
    browserName: "chromium",
    launchOptions: { executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] },
  },
});
