// What a store takes on the disk, without walking through all of it: what cannot have changed is remembered.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"

namespace lamina::layers {

// One thread at a time.
class SpaceMeter {
 public:
  // Reads what an earlier process remembered: <store>/sizes, "<name> <time> <bytes>" lines. The time is that of the last
  // change of the directory, of a cache mount that of its lock file. A damaged file counts as absent.
  explicit SpaceMeter(std::string store);

  struct Measured {
    uint64_t total = 0;
    uint64_t tmp = 0;  // of that: being written
    std::map<std::string, uint64_t> layers, blobs, caches, repositories, partial;  // by name in their directories
  };
  // Blocks, as du(1) counts them.
  Measured measure();
  // Remembers for the next process. Losing it costs a walk.
  void save();

 private:
  struct Known {
    int64_t changed_ns = 0;
    uint64_t bytes = 0;
  };
  // Of a tree whose directory's time tells of every change; `clock` is what has that time.
  uint64_t remembered(const std::string& name, const std::string& clock);
  uint64_t caches(Measured& measured);
  uint64_t trees(const std::string& room, std::map<std::string, uint64_t>& sizes);
  uint64_t files(const std::string& room, std::map<std::string, uint64_t>* sizes);

  const std::string store_;
  std::map<std::string, Known> known_;
  std::vector<std::string> seen_;  // names of the last measure
  bool changed_ = false;
};

}  // namespace lamina::layers
