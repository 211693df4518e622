// Numbers from the wire, for robots that move by them.

/** What a number looks like: digits, with or without a sign and a fraction. */
const DECIMAL = /^[+-]?\d+(\.\d+)?$/;

/**
 * The number that a text says. `Number(text)` takes "" and " " for 0, "0x10" for 16
 * and "1e2" for 100, and a robot then moves there.
 *
 * @throws {RangeError} If the text is anything but a plain decimal number.
 */
export function toNumber(text: string | undefined): number {
  const number = text !== undefined && DECIMAL.test(text) ? Number(text) : NaN;
  if (Number.isFinite(number)) return number;
  const shown = text === undefined ? "nothing" : JSON.stringify(text);
  throw new RangeError(
    `Cannot use ${shown} as a number: it takes a decimal such as -80.5`,
  );
}
