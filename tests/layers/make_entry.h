// Entries of the user who runs the tests.
#pragma once

#include <unistd.h>

#include <memory>
#include <string>

#include "layers/entry.h"

namespace lamina::layers {

// `text` is the content of a file, or where a link leads.
inline Entry make_entry(const std::string& path, EntryType type, const std::string& text = {}) {
  Entry e;
  e.path = path;
  e.type = type;
  e.mode = type == EntryType::kDirectory ? 0755 : 0644;
  e.uid = ::geteuid();
  e.gid = ::getegid();
  if (type == EntryType::kFile) {
    e.bytes = std::make_shared<const std::string>(text);
    e.size = text.size();
  } else {
    e.link_target = text;
  }
  return e;
}

}  // namespace lamina::layers
