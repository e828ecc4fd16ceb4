/** What generated sequences begin with: a drawn token of the vocabulary, or a text that is to be continued. */
import { MersenneTwister } from "../calibration/random.js";
import { readPlainText } from "../calibration/text.js";
import type { TextTokenizer } from "../calibration/tokenizer.js";
import { CalibrationError } from "../errors.js";

export type Start = (index: number, random: MersenneTwister) => readonly number[];

/**
 * A token of texts, each with the same probability, after what the tokenizer puts before any text.
 * @param tokenizer undefined where the model has none: then no token but `others` is special
 * @param others further tokens that are not to be drawn; the first of them begins a text where there is no tokenizer
 */
export function drawnStart(
  vocabularySize: number,
  tokenizer: TextTokenizer | undefined,
  others: { readonly beginToken: number | undefined; readonly endTokens: readonly number[] },
): Start {
  const { beginToken, endTokens } = others;
  const isDrawable = (id: number): boolean =>
    id !== beginToken && !endTokens.includes(id) && (tokenizer === undefined || tokenizer.isOfText(id));
  const ids = Array.from({ length: vocabularySize }, (_, id) => id).filter(isDrawable);
  const opening = tokenizer === undefined ? [beginToken ?? []].flat() : [...tokenizer.opening];
  return (_, random) => [...opening, ids[random.randomInteger(0, ids.length - 1)] as number];
}

/**
 * The lines of a file in turn, blank ones left out.
 * @throws CalibrationError E_TEXT_EMPTY, E_PROMPT_LONG naming the line, and those of reading a text
 */
export async function promptedStart(file: string, tokenizer: TextTokenizer, seqlen: number): Promise<Start> {
  const lines = readPlainText(file).text.split("\n");
  const prompts: (readonly number[])[] = [];
  for (const [index, line] of lines.entries()) {
    if (line.trim() === "") continue;
    const ids = [...(await tokenizer.encodeOpening(line))];
    prompts.push(ids);
    if (ids.length < seqlen) continue;
    throw new CalibrationError(
      "E_PROMPT_LONG",
      `${file}:${index + 1}: ${ids.length} tokens; with --seqlen ${seqlen} a text to be continued may have ${seqlen - 1}.`,
      {
        hint: "Shorten it, or give a larger --seqlen.",
        details: { file, line: index + 1, tokens: ids.length, seqlen },
      },
    );
  }
  if (prompts.length > 0) return (index) => prompts[index % prompts.length] as readonly number[];
  throw new CalibrationError("E_TEXT_EMPTY", `${file}: holds no text to be continued.`, { details: { file } });
}
