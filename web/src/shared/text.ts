// Text of strangers (names, labels, log lines): escape sequences taken out, control characters made visible.

// Operating-system commands up to their end (BEL or ST), control sequences, and the short forms.
// eslint-disable-next-line no-control-regex
const ESCAPES = /\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\|$)|\u001b[PX^_][^\u001b]*(?:\u001b\\|$)|(?:\u001b\[|\u009b)[0-?]*[ -/]*[@-~]|\u001b[ -/]*[0-~]/g;
const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;
/** Characters that change the direction or the width of what follows: they disguise a name. */
const DISGUISES = /[\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

/** Without the escape sequences of terminals; of what a carriage return overwrites, the last. */
export function withoutAnsi(text: string): string {
  const plain = text.replace(ESCAPES, "");
  const ends = plain.replace(/\r+$/, "");
  return ends.includes("\r") ? ends.slice(ends.lastIndexOf("\r") + 1) : ends;
}

/** Control characters as pictures (␀ … ␟), invisible ones as their number. */
export function visible(text: string): string {
  return text
    .replace(CONTROLS, (one) => {
      const code = one.charCodeAt(0);
      return code < 0x20 ? String.fromCharCode(0x2400 + code) : code === 0x7f ? "␡" : `\\x${code.toString(16)}`;
    })
    .replace(DISGUISES, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** A log line as it is shown. */
export function logText(text: string): string {
  return visible(withoutAnsi(text));
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(count: number): string {
  let unit = 0;
  while (count >= 1024 && unit < UNITS.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)} ${UNITS[unit]}`;
}

/** A metric's value; what is not finite comes from the service as text. */
export function number(value: unknown): string {
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(3) : value.toPrecision(4);
}
