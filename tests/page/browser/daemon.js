// A daemon of a test: nothing is configured but its ports, and an interval short enough to wait for.
import { execFileSync, spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { until } from "./support.js";

/** The program. */
export const SYSTOLE = process.env.SYSTOLE ?? new URL("../../../target/release/systole", import.meta.url).pathname;

export class Daemon {
  /** @param {number} interval seconds */
  constructor(interval) {
    this.interval = interval;
    this.folder = mkdtempSync(join(tmpdir(), "systole-page-"));
    this.udp = 0;
    this.http = 0;
    this.socket = createSocket("udp4");
    this.socket.unref();
    /** @type {import("node:child_process").ChildProcess | null} */
    this.child = null;
  }

  /** Starts it, the first time at ports that are free, later at the same. */
  async start(/** @type {string[]} */ ...flags) {
    const log = join(this.folder, `log-${Date.now()}`);
    const out = openSync(log, "a");
    const given = [
      "--interval",
      `${this.interval}s`,
      "--listen",
      `udp://127.0.0.1:${this.udp}`,
      "--http",
      `127.0.0.1:${this.http}`,
    ];
    this.child = spawn(SYSTOLE, ["run", ...given, ...flags], {
      stdio: ["ignore", out, out],
      env: { ...process.env, XDG_STATE_HOME: this.folder },
    });
    const text = () => readFileSync(log, "utf8");
    await until("the daemon listens", () => {
      if (this.child?.exitCode !== null) {
        throw new Error(text());
      }
      const udp = /listening listener=udp:\/\/127\.0\.0\.1:(\d+)/.exec(text());
      const http = /^ {2}page +http:\/\/127\.0\.0\.1:(\d+)/m.exec(text());
      [this.udp, this.http] = [Number(udp?.[1] ?? 0), Number(http?.[1] ?? 0)];
      return this.udp && this.http;
    });
    await until("it is ready", () =>
      fetch(`${this.url}/ready`).then(
        ({ ok }) => ok,
        () => false,
      ),
    );
  }

  get url() {
    return `http://127.0.0.1:${this.http}`;
  }

  /** @param {string[]} lines as `systole send` takes them */
  send(...lines) {
    execFileSync(SYSTOLE, ["send", ...lines, "--to", `udp://127.0.0.1:${this.udp}`]);
  }

  /**
   * Many lines, in datagrams of about 1,400 bytes, not faster than they are read.
   * @param {Iterable<string>} lines
   */
  async flood(lines) {
    let packet = "";
    let sent = 0;
    const put = async () => {
      await new Promise((resolve) => this.socket.send(packet, this.udp, "127.0.0.1", resolve));
      packet = "";
      sent += 1;
      if (sent % 50 === 0) {
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    };
    for (const line of lines) {
      packet += `${line}\n`;
      if (packet.length > 1400) {
        await put();
      }
    }
    packet && (await put());
  }

  /** @returns {Promise<any>} */
  async status() {
    return (await fetch(`${this.url}/api/v1/status`)).json();
  }

  async stop(/** @type {NodeJS.Signals} */ signal = "SIGTERM") {
    const { child } = this;
    this.child = null;
    if (child && child.exitCode === null) {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill(signal);
      await ended;
    }
  }

  async end() {
    await this.stop("SIGKILL");
    this.socket.close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
