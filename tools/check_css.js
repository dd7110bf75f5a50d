// SPDX-License-Identifier: BSD-3-Clause
"use strict";
// Checks style sheets: their syntax, the names of properties, the values of properties with variables
// put in, and that variables are both defined and used. tools/lint-pages runs this.
//
//     node tools/check_css.js FILE...
//
// css-tree knows the properties and values of the CSS specifications.

const fs = require("fs");
const csstree = require("css-tree");

// The css-tree of Debian 12 and 13 is older than color-mix().
const { lexer } = csstree.fork({
  types: {
    "color-mix()": "color-mix( in <custom-ident> , [ <color> && <percentage>? ]#{2} )",
    color: "| <color-mix()>",
  },
});

/** The text of a value in which every var() has been replaced. */
const withVariables = (text, variables) => {
  const replaced = text.replace(/var\((--[\w-]+)\)/g, (whole, name) => variables.get(name) ?? whole);
  return replaced === text ? text : withVariables(replaced, variables);
};

/** Yields the line and the sentence of every fault of a style sheet. */
function* faults(sheet) {
  const found = [];
  const tree = csstree.parse(sheet, {
    positions: true,
    onParseError: (error) => found.push([error.line, `${error.message}.`]),
  });
  yield* found;
  const declarations = csstree.findAll(tree, (node) => node.type === "Declaration");
  const texts = new Map(declarations.map((each) => [each, csstree.generate(each.value)]));
  const defined = declarations.filter((each) => each.property.startsWith("--"));
  const variables = new Map(defined.map((each) => [each.property, texts.get(each).trim()]));
  const used = new Set();
  for (const each of declarations) {
    const { line } = each.loc.start;
    for (const [, name] of texts.get(each).matchAll(/var\((--[\w-]+)/g)) {
      used.add(name);
      if (!variables.has(name)) yield [line, `The variable ${name} is not defined.`];
    }
    if (each.property.startsWith("--")) continue;
    const text = withVariables(texts.get(each), variables);
    const { error } = lexer.matchProperty(each.property, text);
    if (!error) continue;
    if (error.name === "SyntaxReferenceError") yield [line, `${error.message}.`];
    else yield [line, `${each.property} cannot have the value "${text}".`];
  }
  for (const each of defined) {
    if (!used.has(each.property)) yield [each.loc.start.line, `The variable ${each.property} is not used.`];
  }
  for (const block of csstree.findAll(tree, (node) => node.type === "Block")) {
    const names = new Set();
    for (const each of block.children.toArray().filter((child) => child.type === "Declaration")) {
      if (names.has(each.property)) yield [each.loc.start.line, `${each.property} is set twice.`];
      names.add(each.property);
    }
  }
}

let status = 0;
for (const path of process.argv.slice(2)) {
  for (const [line, sentence] of [...faults(fs.readFileSync(path, "utf8"))].sort(([a], [b]) => a - b)) {
    console.log(`${path}:${line}: ${sentence}`);
    status = 1;
  }
}
process.exit(status);
