// Formats the variables for prettier, in place of its JavaScript parser, which is a hundred times this size.
import { applyEdits, format } from "jsonc-parser";

const FORMAT = "formatted-json";
const SPACES = { tabSize: 2, insertSpaces: true };

export const parsers = {
  jsonc: {
    astFormat: FORMAT,
    parse: (text) => ({ text: applyEdits(text, format(text, undefined, SPACES)) }),
    locStart: () => 0,
    locEnd: ({ text }) => text.length,
  },
};

export const printers = { [FORMAT]: { print: (path) => path.node.text } };
