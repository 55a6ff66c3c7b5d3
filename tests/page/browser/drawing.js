// The charts of the drawing test: the modules of the page on figures as the daemon serves them.
// @ts-expect-error it is served, not a file here
import { Charts } from "/assets/charts.js";

const charts = new Charts();
charts.scan();
await charts.load();
charts.addEvents([{ time: 1_700_000_900, title: "deploy api 4.12", kind: "event", level: "info" }]);
Object.assign(window, { charts });
document.documentElement.dataset.ready = "";
