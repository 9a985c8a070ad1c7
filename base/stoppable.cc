#include "base/stoppable.h"

namespace lamina {

Result<void> check_stop(const std::stop_token& stop) {
  if (stop.stop_requested()) return Error(ErrorKind::kCancelled, "interrupted");
  return {};
}

Result<size_t> StoppableSource::read(std::span<std::byte> buffer) {
  RETURN_IF_ERROR(check_stop(stop_));
  return source_->read(buffer);
}

Result<void> StoppableSink::write(std::span<const std::byte> data) {
  RETURN_IF_ERROR(check_stop(stop_));
  return sink_.write(data);
}

}  // namespace lamina
