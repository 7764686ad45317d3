{
  "variables": {
    # One list for both build systems: lines of native/sources.txt without comments.
    "read_sources": "require('fs').readFileSync('native/sources.txt', 'utf8').replace(/#.*/g, '')",
    # "true" for a binary that also runs on other machines: see docs/building.md.
    "portable%": "false",
  },
  "targets": [
    {
      "target_name": "anchorcoder",
      "sources": ["<!@(node -p \"<(read_sources)\")"],
      "include_dirs": ["native"],
      "dependencies": [
        "<!(node -p \"require('node-addon-api').targets\"):node_addon_api_except_all",
      ],
      "defines": [
        "NAPI_VERSION=9",
        # While a worker is being terminated nothing can be thrown; without this the process ends.
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
        "ANCHORCODER_VERSION=\"<!(node -p \"require('./package.json').version\")\"",
      ],
      "cflags!": ["-O2"],
      "cflags": ["-O3", "-Wall", "-Wextra", "-Wshadow", "-fvisibility=hidden"],
      # Node's own flags name an older standard and switch run-time types off.
      "cflags_cc!": ["-fno-rtti", "-std=gnu++17"],
      "cflags_cc": [
        "-std=c++20",
        "-fvisibility-inlines-hidden",
        # Sums are equal bit by bit only if the source, not the compiler, says where to fuse.
        "-ffp-contract=off",
        # Its headers are not ours to mend: no warnings from them.
        "-isystem <!(node -p \"require('path').dirname(require.resolve('node-addon-api'))\")",
      ],
      "libraries": ["-lpthread", "-ldl"],
      "conditions": [
        ["OS=='linux'", {
          "ldflags": [
            "-Wl,--version-script=<(module_root_dir)/native/napi/exports.map",
            "-Wl,--gc-sections",
            # The pool's threads outlive the worker thread that loaded the addon.
            "-Wl,-z,nodelete",
          ],
        }],
        ["portable=='true'", {
          "sources": ["native/napi/old_glibc.cpp"],
          # Not libgcc: it is node's own, and one unwinder should serve the whole process.
          "ldflags": ["-static-libstdc++"],
        }],
      ],
    },
  ],
}
