// What the README shows has to work as it stands there.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from '@jest/globals';

const root = fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const readme = read('README.md');
const blocks = (language: string) =>
  [...readme.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map(
    ([, code]) => code as string,
  );

function node(args: readonly string[], input?: string) {
  return spawnSync(process.execPath, args, { cwd: root, input, encoding: 'utf8' });
}

describe('README.md', () => {
  test('its first code runs and prints what it says', () => {
    const [code = ''] = blocks('js');
    expect(code.split('\n').filter((line) => line !== '')).toHaveLength(8);
    const { stdout, stderr, status } = node(['--input-type=module'], code);
    expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
    const figures = /\n\n(\d+) rows in the cache, a full one has (\d+)\n$/.exec(stdout);
    expect(Number(figures?.[1])).toBeLessThan(Number(figures?.[2]));
    expect(stdout.indexOf('\n\n')).toBeGreaterThan(0);
  });

  test('its two commands are scripts of the package', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
    const named = [...readme.matchAll(/^npm run (\w+)/gm)].map(([, name]) => name as string);
    expect(named).toEqual(['demo', 'verify']);
    for (const name of named) expect(scripts[name]).toBeDefined();
  });

  test('its command lines have options that exist', () => {
    const help = ['generate', 'inspect', 'compare'].map(
      (name) => node(['dist/lib/cli.js', name, '--help']).stdout,
    );
    const lines = blocks('sh').filter((block) => block.includes('anchorcoder'));
    const flags = lines.flatMap((block) => block.match(/--[a-z-]+/g) ?? []);
    expect(flags.length).toBeGreaterThan(5);
    for (const flag of flags) expect(help.join()).toContain(`${flag} `);
  });
});

describe('documents', () => {
  test.each([
    'README.md',
    'docs/anchors.md',
    'docs/building.md',
    'docs/compare.md',
    'CONTRIBUTING.md',
    'AGENTS.md',
  ])('links of %s lead somewhere', (path) => {
    const links = [...read(path).matchAll(/\]\(([^)#]+)[^)]*\)/g)].map(([, link]) => link!);
    for (const link of links.filter((target) => !target.startsWith('http'))) {
      const target = join(dirname(path), link);
      expect([target, existsSync(join(root, target))]).toEqual([target, true]);
    }
  });

  test('AGENTS.md can be read at a glance', () => {
    expect(read('AGENTS.md').trimEnd().split('\n').length).toBeLessThanOrEqual(80);
  });
});
