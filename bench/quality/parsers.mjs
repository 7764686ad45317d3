// Whether texts parse: Python's `ast`, by `python3`, and the TypeScript compiler.
import { execFileSync } from 'node:child_process';
import ts from 'typescript';

const program = `
import ast, json, sys
def parses(text):
    try:
        ast.parse(text)
        return True
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
print(json.dumps([parses(text) for text in json.load(sys.stdin)]))`;

/** (texts) whether each of { text, language } parses. */
export function parseAll(sources) {
  const isPython = ({ language }) => language === 'py';
  const python = parsePython(sources.filter(isPython).map(({ text }) => text));
  return sources.map((source) => (isPython(source) ? python.shift() : parsesAsScript(source)));
}

function parsePython(texts) {
  if (texts.length === 0) return [];
  const input = JSON.stringify(texts);
  const command = ['-W', 'ignore', '-c', program];
  const options = { input, encoding: 'utf8', maxBuffer: 2 ** 24 };
  return JSON.parse(execFileSync('python3', command, options));
}

function parsesAsScript({ text, language }) {
  const { diagnostics } = ts.transpileModule(text, {
    fileName: `text.${language}`,
    reportDiagnostics: true,
    compilerOptions: { allowJs: true, target: ts.ScriptTarget.ESNext },
  });
  return diagnostics.length === 0;
}
