// Tree → typed instructions, grouped into stages. Variables are not expanded here: the planner does
// that when the values are known (parser/expand.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "parser/tree.h"

namespace lamina::parser {

// Shell form or exec form of RUN, CMD, ENTRYPOINT, HEALTHCHECK CMD.
struct CommandLine {
  bool shell_form = true;
  std::vector<std::string> args;  // shell form: one element, the text for the shell
  bool operator==(const CommandLine&) const = default;
};

struct From {
  Word image;
  std::optional<Word> name;      // AS name, lower-cased
  std::optional<Word> platform;  // --platform
};

struct Arg {
  struct Item {
    Word name;
    std::optional<Word> value;
  };
  std::vector<Item> items;
};

struct KeyValue {
  Word key;
  Word value;
};
struct Env {
  std::vector<KeyValue> pairs;
  bool legacy = false;  // ENV key value
};
struct Label {
  std::vector<KeyValue> pairs;
  bool legacy = false;
};

struct Run {
  CommandLine command;             // with heredocs: the line itself, see `heredocs`
  std::vector<Heredoc> heredocs;   // bodies that belong to the line
  std::vector<Word> mounts;        // raw --mount values; parse_mount() after expansion
  std::optional<Word> network;     // default | none | host
  std::optional<Word> security;    // sandbox | insecure
  std::vector<Word> devices;
};

// COPY and ADD.
struct Copy {
  bool is_add = false;
  std::vector<Word> sources;      // paths, URLs; heredoc sources are in `heredocs`
  std::vector<Heredoc> heredocs;
  Word destination;
  std::optional<Word> from;
  std::optional<Word> chown;
  std::optional<Word> chmod;
  bool link = false;
  bool parents = false;
  bool if_exists = false;         // extension
  std::vector<Word> excludes;
  std::optional<bool> keep_git_dir;
  std::optional<Word> checksum;
  std::optional<bool> unpack;
};

struct Workdir { Word path; };
struct User { Word user; };
struct Cmd { CommandLine command; };
struct Entrypoint { CommandLine command; };
struct Expose { std::vector<Word> ports; };
struct Volume { std::vector<Word> paths; };
struct StopSignal { Word signal; };
struct Shell { std::vector<std::string> argv; };
struct Maintainer { Word name; };
struct Healthcheck {
  bool none = false;              // HEALTHCHECK NONE
  CommandLine command;
  // Absent: not given (the runtime's default).
  std::optional<std::chrono::nanoseconds> interval, timeout, start_period, start_interval;
  std::optional<int64_t> retries;
};
struct Onbuild {
  std::string trigger;            // the instruction's text as stored in the image
};

using Body = std::variant<From, Arg, Env, Label, Run, Copy, Workdir, User, Cmd, Entrypoint, Expose, Volume,
                          StopSignal, Shell, Maintainer, Healthcheck, Onbuild>;

struct Instruction {
  std::string name;       // upper case
  std::string original;   // Node::original
  SourceRange range;
  std::vector<Flag> flags;  // for places in diagnostics
  std::vector<std::string> comments;
  Body body;
};

struct Stage {
  Instruction from;                // holds From
  std::string name;                // lower case, or empty
  std::vector<Instruction> instructions;
};

struct Dockerfile {
  std::string file;
  std::shared_ptr<const std::string> text;
  Directives directives;
  std::vector<Instruction> global_args;  // ARGs before the first FROM
  std::vector<Stage> stages;
};

struct ParsedDockerfile {
  Dockerfile dockerfile;
  std::vector<Diagnostic> diagnostics;  // of both levels, in the order of lines
};

// The whole parser: parse_tree, then every instruction checked and typed. All diagnostics of the
// file are collected; the Dockerfile is usable only when none is an error.
// `ignore_syntax`: the # syntax line does not count, since something else named the frontend.
ParsedDockerfile parse_dockerfile(std::string file, std::string text, bool ignore_syntax = false);

// Whether a frontend image is one whose language is read here.
bool is_builtin_frontend(std::string name);

// An ONBUILD trigger taken from an image's config. `file` names its origin in diagnostics, such as
// "ONBUILD of debian:bookworm". Gives one instruction or diagnostics.
struct ParsedInstruction {
  std::optional<Instruction> instruction;
  std::vector<Diagnostic> diagnostics;
};
ParsedInstruction parse_trigger(const std::string& file, const std::string& text);

// A diagnostic at a place in this file, with its excerpt filled in.
Diagnostic diagnostic_at(const Dockerfile& dockerfile, Severity severity, SourceRange range,
                         std::string message, std::vector<std::string> notes = {});

}  // namespace lamina::parser
