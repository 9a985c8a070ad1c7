#include "builder/internal/early_push.h"

#include "base/trace.h"

namespace lamina::builder::internal {

std::unique_ptr<registry::GrowingBlob> EarlyPush::begin() {
  auto growing = client_.grow_blob(repository_);
  return growing ? *std::move(growing) : nullptr;
}

void EarlyPush::made(const layers::LayerId& layer, std::unique_ptr<registry::GrowingBlob> growing) {
  if (growing && growing->started()) growing_.lock()->insert_or_assign(layer.value, std::move(growing));
}

void EarlyPush::send(const layers::LayerId& layer, const oci::Descriptor& blob) {
  const TraceSpan span("push", "early " + blob.digest.text());
  std::unique_ptr<registry::GrowingBlob> growing;
  if (auto all = growing_.lock(); all->contains(layer.value)) growing = std::move(all->extract(layer.value).mapped());
  if (growing && growing->finish(blob)) return;
  ignore_error(client_.push_blob(repository_, blob, store_, {}, nullptr), "tried again, and reported, when the image is pushed");
}

}  // namespace lamina::builder::internal
