/** JSON as Python writes it: JSON.parse, and beyond it a byte order mark and the words NaN, Infinity and -Infinity. */

/**
 * Infinities become numbers; NaN becomes the string "NaN", which whoever expects a number refuses by name.
 * @throws SyntaxError as JSON.parse does
 */
export function parseJson(text: string): unknown {
  const plain = text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  try {
    return JSON.parse(plain);
  } catch (problem) {
    const standard = withStandardNumbers(plain);
    if (standard === plain) throw problem;
    return JSON.parse(standard);
  }
}

/** The words outside strings replaced by what JSON.parse takes. */
function withStandardNumbers(text: string): string {
  const pieces: string[] = [];
  for (let position = 0; position < text.length;) {
    const quote = text.indexOf('"', position);
    const between = text.slice(position, quote === -1 ? text.length : quote);
    pieces.push(between.replaceAll(/\bInfinity\b/g, "1e999").replaceAll(/\bNaN\b/g, '"NaN"'));
    if (quote === -1) break;
    const end = afterString(text, quote);
    pieces.push(text.slice(quote, end));
    position = end;
  }
  return pieces.join("");
}

/** The place after the closing quote of the string that begins at `quote`, or the text's end. */
function afterString(text: string, quote: number): number {
  for (let end = quote + 1; end < text.length; end++) {
    if (text[end] === "\\") end++;
    else if (text[end] === '"') return end + 1;
  }
  return text.length;
}
