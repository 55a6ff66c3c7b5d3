// What the browser tests share: Chromium, and what a page did that it should not do.
import { existsSync, readFileSync } from "node:fs";
import { chromium } from "playwright-core";

/** Where Chromium is. */
const PROGRAM = [
  process.env.CHROMIUM ?? "",
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
].find((path) => path && existsSync(path));

/** @returns {Promise<import("playwright-core").Browser>} */
export function browser() {
  return chromium.launch({ executablePath: PROGRAM, args: ["--no-sandbox", "--force-color-profile=srgb"] });
}

/**
 * With `SYSTOLE_ASSETS=1` modules and styles are those of the sources, so that a change needs no build.
 * @param {import("playwright-core").BrowserContext} context
 */
export async function fromSources(context) {
  if (process.env.SYSTOLE_ASSETS) {
    await context.route(/\/assets\/[a-z]+\.(js|css)/, (route) => {
      const name = new URL(route.request().url()).pathname.split("/").pop() ?? "";
      const body = readFileSync(new URL(`../../../src/http/assets/${name}`, import.meta.url));
      return route.fulfill({ body, contentType: name.endsWith("js") ? "text/javascript" : "text/css" });
    });
  }
}

/**
 * Collects errors of the console and of scripts, and refused requests, of a page.
 * @param {import("playwright-core").Page} page
 */
export function faults(page) {
  /** @type {string[]} */
  const found = [];
  page.on("console", (message) => {
    // Tests read canvases back; pages do not.
    const isOurs = message.text().includes("willReadFrequently");
    if (!isOurs && (message.type() === "error" || message.type() === "warning")) {
      found.push(`${message.type()}: ${message.text()} (${message.location().url})`);
    }
  });
  page.on("pageerror", (error) => found.push(`${error.stack ?? error}`));
  return found;
}

/**
 * Polls until something is so.
 * @template T
 * @param {string} what
 * @param {() => Promise<T> | T} is
 * @param {number} [seconds]
 * @returns {Promise<NonNullable<T>>}
 */
export async function until(what, is, seconds = 15) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const found = await is();
    if (found) {
      return /** @type {NonNullable<T>} */ (found);
    }
    if (Date.now() > end) {
      throw new Error(`never within ${seconds} s: ${what}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
