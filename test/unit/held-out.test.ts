// Where the benchmark of use finds lines, blocks, functions and calls in a text.
import { describe, expect, test } from '@jest/globals';

// By a variable, since the scripts have no types.
const scripts: string = '../../bench/quality/';
const {
  cutBlock,
  cutUnit,
  findBlock,
  findCalls,
  findLine,
  findUnits,
  firstLines,
  isUnitOver,
  lastLines,
} = await import(`${scripts}held-out.mjs`);
const { parseAll } = await import(`${scripts}parsers.mjs`);
const { countRows } = await import(`${scripts}counts.mjs`);

const python = `import os

@cached
def first(path):
    names = os.listdir(path)
    for name in names:
        print(name)

    return names


class Second(Base):
    def run(self, count):
        # run(nothing)
        self.total = count
        self.first_names(count, "a)b")

        return first(self.path) + len(self.names)

    def stop(self):
        pass
`;
const typescript = `const before = 1;
export function first(a: number): number {
  if (a > 1) {
    const b = second(a, 2);
    return b;
  }
  return before;
}

export class Third {
  run(count: number) {
    this.list.push({ count });
    return new Map(this.list);
  }
}
`;

interface Hole {
  before: string;
  held: string;
  behind: string;
}
const whole = ({ before, held, behind }: Hole) => before + held + behind;

describe('what is held out', () => {
  test('is the first line with something to say from the middle on', () => {
    const hole = findLine(python) as Hole;
    expect(hole.held).toBe('class Second(Base):');
    expect(whole(hole)).toBe(python);
    expect(findLine('a\nb\nc')).toBeUndefined();
  });

  test('is the first body of some lines from the middle on', () => {
    const hole = findBlock(python, 'py') as Hole;
    expect(hole.before.endsWith('count):\n')).toBe(true);
    expect(hole.held.split('\n')).toHaveLength(5);
    expect(hole.held.endsWith('len(self.names)')).toBe(true);
    expect(whole(hole)).toBe(python);
    const other = findBlock(typescript, 'ts') as Hole;
    expect(other.held).toBe(
      '  run(count: number) {\n    this.list.push({ count });\n    return new Map(this.list);\n  }',
    );
    expect(findBlock('def f():\n    pass\n', 'py')).toBeUndefined();
  });

  test('is a function or class whose decorators are not before it', () => {
    const [later, earlier] = findUnits(python, 'py');
    expect(later.before.endsWith('class Second(Base):\n')).toBe(true);
    expect(earlier.start).toBe('import os\n\n');
    expect(earlier.before.endsWith('def first(path):\n')).toBe(true);
    expect(whole(earlier)).toBe(python);
    expect(findUnits(typescript, 'ts').map(({ start }: { start: string }) => start)).toEqual([
      typescript.slice(0, typescript.indexOf('export class')),
      'const before = 1;\n',
    ]);
  });

  test('has so many lines and characters around it', () => {
    expect(lastLines('ab\ncd\nef\n', 2, 100)).toBe('cd\nef\n');
    expect(lastLines('ab\ncd\nef\n', 9, 7)).toBe('cd\nef\n');
    expect(firstLines('\nab\ncd\nef', 2, 100)).toBe('\nab\ncd');
    expect(firstLines('\nab\ncd\nef', 9, 6)).toBe('\nab\ncd');
  });
});

describe('what is written', () => {
  test('is cut where the block ends', () => {
    expect(cutBlock('    a\n\n      b\n  c\n', '    x', false)).toBe('    a\n\n      b');
    expect(cutBlock('    a\n    b = (', '    x', false)).toBe('    a');
    expect(cutBlock('    a\n    b', '    x', true)).toBe('    a\n    b');
    expect(cutBlock('a\n', '    x', false)).toBe('');
  });

  test('is cut where the function ends', () => {
    expect(cutUnit('    a\n\nb', 'py', false)).toEqual({ text: '    a\n\n', ends: true });
    expect(cutUnit('    a\n    b', 'py', false)).toEqual({ text: '    a\n', ends: false });
    expect(cutUnit('    a\n    b', 'py', true)).toEqual({ text: '    a\n    b', ends: true });
    expect(cutUnit('  a;\n};\nb', 'ts', false)).toEqual({ text: '  a;\n};', ends: true });
    expect(cutUnit('  a;\n  }\n', 'ts', true)).toEqual({ text: '  a;\n  }\n', ends: false });
    expect(isUnitOver('  a;\n}', 'ts')).toBe(false);
    expect(isUnitOver('  a;\n}\n', 'ts')).toBe(true);
    expect(isUnitOver('    a\n\n', 'py')).toBe(false);
    expect(isUnitOver('    a\n\nb', 'py')).toBe(true);
  });

  test('is parsed in its language', () => {
    const texts = [
      { text: 'def f():\n', language: 'py' },
      { text: 'const a: number = 1;', language: 'ts' },
      { text: python, language: 'py' },
      { text: 'const a: = 1;', language: 'ts' },
      { text: 'const a = (1;', language: 'js' },
      { text: typescript, language: 'ts' },
    ];
    expect(parseAll(texts)).toEqual([false, true, true, false, false, true]);
  });
});

describe('calls', () => {
  const written = (text: string, language: string, most = 9) =>
    findCalls(text, language, most).map((call: Record<string, string>) => ({
      text: call.blank! + call.name! + call.arguments!,
      ago: call.ago,
    }));

  test('have a name, arguments and no definition or comment around them', () => {
    expect(written(python, 'py')).toEqual([
      { text: 'first_names(count, "a)b")', ago: undefined },
      { text: ' first(self.path)', ago: 14 },
    ]);
    expect(written(typescript, 'ts')).toEqual([
      { text: 'push({ count })', ago: undefined },
      { text: ' Map(this.list)', ago: undefined },
    ]);
  });

  test('begin where they say, and are spread when there are many', () => {
    const text = Array.from({ length: 40 }, (_, i) => `name${i}(${i})\n`).join('');
    const found = findCalls(text, 'py', 3);
    expect(found).toHaveLength(3);
    for (const { at, name } of found) expect(text.slice(at).startsWith(`${name}(`)).toBe(true);
    expect(found.map(({ name }: { name: string }) => name)).toEqual(['name20', 'name26', 'name33']);
  });
});

test('counts what each case has right, and both', () => {
  const verdicts = {
    anchored: [{ right: 1 }, { right: 2 }, { right: 5 }],
    twin: [{ right: 2 }, { right: 0 }, { right: 7 }],
  };
  const groups = { small: (item: number) => item < 3, none: () => false };
  expect(countRows([1, 2, 3], verdicts, groups, 'size')).toEqual([
    { size: 'small', case: 'anchored', right: 3 },
    { size: 'small', case: 'twin', right: 2 },
    { size: 'small', case: 'both', right: 1 },
  ]);
});
