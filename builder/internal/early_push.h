// Layers on their way to a registry while the build goes on.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/guarded.h"
#include "layers/store.h"
#include "oci/reference.h"
#include "registry/client.h"

namespace lamina::builder::internal {

// For one repository. Any thread. What fails here is done again, and told, when the image is pushed.
class EarlyPush {
 public:
  // Borrows both.
  EarlyPush(registry::Client& client, layers::Store& store, oci::Reference repository) : client_(client), store_(store), repository_(std::move(repository)) {}

  // Follows a blob's file while it is made; null when nothing can be sent.
  std::unique_ptr<registry::GrowingBlob> begin();
  // The bytes that went into `growing` have become this layer's blob.
  void made(const layers::LayerId& layer, std::unique_ptr<registry::GrowingBlob> growing);
  // The blob of a layer is complete: now it goes up, as far as it has not already.
  void send(const layers::LayerId& layer, const oci::Descriptor& blob);

 private:
  registry::Client& client_;
  layers::Store& store_;
  const oci::Reference repository_;
  Guarded<std::map<std::string, std::unique_ptr<registry::GrowingBlob>>> growing_;  // by layer id
};

}  // namespace lamina::builder::internal
