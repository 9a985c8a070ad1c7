// Streams that end early when somebody asks for it.
#pragma once

#include <memory>
#include <stop_token>

#include "base/stream.h"

namespace lamina {

// kCancelled after a stop request.
Result<void> check_stop(const std::stop_token& stop);

// Passes bytes on until a stop is requested; then kCancelled.
class StoppableSource : public ByteSource {
 public:
  StoppableSource(std::unique_ptr<ByteSource> source, std::stop_token stop) : source_(std::move(source)), stop_(std::move(stop)) {}
  Result<size_t> read(std::span<std::byte> buffer) override;

 private:
  std::unique_ptr<ByteSource> source_;
  std::stop_token stop_;
};

// The same for what is written to a sink that it borrows.
class StoppableSink : public ByteSink {
 public:
  StoppableSink(ByteSink& sink, std::stop_token stop) : sink_(sink), stop_(std::move(stop)) {}
  Result<void> write(std::span<const std::byte> data) override;

 private:
  ByteSink& sink_;
  std::stop_token stop_;
};

}  // namespace lamina
