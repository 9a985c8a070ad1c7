#pragma once

#include <string>

#include "base/stream.h"

namespace lamina {

// Keeps what it is given.
class StringSink : public ByteSink {
 public:
  std::string text;
  Result<void> write(std::span<const std::byte> data) override {
    text.append(reinterpret_cast<const char*>(data.data()), data.size());
    return {};
  }
};

}  // namespace lamina
