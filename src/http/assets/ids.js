// Ids of series: `kind:name;key=value;key=value`, with `\` before `;`, `=` and `\`. Pure.

/**
 * @param {string} id
 * @returns {{ kind: string, name: string, tags: [string, string | null][] }}
 */
export function parseId(id) {
  const colon = id.indexOf(":");
  /** @type {string[][]} */
  const parts = [[""]];
  for (let at = colon + 1; at < id.length; at += 1) {
    const part = parts[parts.length - 1];
    if (id[at] === "\\" && at + 1 < id.length) {
      at += 1;
      part[part.length - 1] += id[at];
    } else if (id[at] === ";") {
      parts.push([""]);
    } else if (id[at] === "=" && parts.length > 1 && part.length === 1) {
      part.push("");
    } else {
      part[part.length - 1] += id[at];
    }
  }
  return {
    kind: id.slice(0, Math.max(0, colon)),
    name: parts[0][0],
    tags: parts.slice(1).map(([key, value]) => [key, value ?? null]),
  };
}

/**
 * Address of the page of a series.
 * @param {string} kind
 * @param {string} name
 * @param {[string, string | null][]} tags
 */
export function seriesUrl(kind, name, tags) {
  const query = new URLSearchParams({ kind, name });
  for (const [key, value] of tags) {
    query.append("tag", value === null ? key : `${key}:${value}`);
  }
  return `/series/show?${query}`;
}

/**
 * Tags as pairs; a key with several values gives several.
 * @param {Record<string, string | string[] | null>} tags
 * @returns {[string, string | null][]}
 */
export function pairs(tags) {
  return Object.entries(tags).flatMap(([key, value]) =>
    Array.isArray(value)
      ? value.map((one) => /** @type {[string, string | null]} */ ([key, one]))
      : [/** @type {[string, string | null]} */ ([key, value])],
  );
}
