// What the browser tests share: Chromium, and what a page did that it should not do.
import { existsSync } from "node:fs";
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
