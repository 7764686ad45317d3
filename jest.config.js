// Tests import the public API as `anchorcoder` (the built dist/, whose workers need real files)
// and internals as '../../lib/name.js', which the resolver leads to the TypeScript source.
export default {
  testEnvironment: 'node',
  testMatch: ['<rootDir>/test/{unit,model,stress}/**/*.test.ts'],
  extensionsToTreatAsEsm: ['.ts'],
  transform: {
    '\\.ts$': [
      '@swc/jest',
      { jsc: { target: 'es2022', parser: { syntax: 'typescript' } }, sourceMaps: 'inline' },
    ],
  },
  resolver: '<rootDir>/test/resolve.cjs',
  modulePathIgnorePatterns: ['<rootDir>/build', '<rootDir>/prebuilds'],
  testTimeout: 60_000,
  reporters: ['default', '<rootDir>/test/count.mjs'],
};
