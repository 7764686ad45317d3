// Jest looks for the file that is named; TypeScript sources are imported by their output's name.
const { join } = require('node:path');

const built = join(__dirname, '..', 'dist');

module.exports = (request, options) => {
  const { basedir, defaultResolver } = options;
  const source = request.startsWith('.') && request.endsWith('.js');
  if (source && !basedir.startsWith(built) && !basedir.includes('node_modules')) {
    try {
      return defaultResolver(request.replace(/\.js$/, '.ts'), options);
    } catch {
      // Plain JavaScript, then.
    }
  }
  return defaultResolver(request, options);
};
