import assert from "node:assert/strict";
import { test } from "node:test";
import { parseJson } from "../src/json.js";

test("JSON as Python writes it is read: a byte order mark, NaN and infinities, also beside strings that hold the words", () => {
  assert.deepEqual(parseJson('\ufeff{"a": 1}'), { a: 1 });
  assert.deepEqual(parseJson('{"limit": [0.0, Infinity, -Infinity], "x": NaN}'), {
    limit: [0, Infinity, -Infinity],
    x: "NaN",
  });
  const text = '{"NaN": "\\"Infinity\\\\", "b": "-Infinity, NaN", "c": Infinity}';
  assert.deepEqual(parseJson(text), { NaN: '"Infinity\\', b: "-Infinity, NaN", c: Infinity });
  for (const broken of ["{", '{"a": Infinite}', '{"a": NaN', '"NaN', "xNaN", '{"a": None}'])
    assert.throws(() => parseJson(broken), SyntaxError, broken);
});
