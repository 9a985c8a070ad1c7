// Blobs over the network, in both directions, resumed after a break.
// OCI distribution-spec v1.1, "Pulling blobs" and "Pushing blobs".
#pragma once

#include "registry/client.h"
#include "registry/internal/api.h"

namespace lamina::registry::internal {

// The blob's bytes from `offset` on, from the first of the endpoints that has it; not verified. The API must outlive
// the stream.
Result<std::unique_ptr<ByteSource>> download_blob(Api& api, const std::vector<Endpoint>& endpoints, const oci::Descriptor& blob, uint64_t offset);

// As Client::push_blob, for a blob that the repository is known not to have.
Result<PushOutcome> upload_blob(Api& api, const Endpoint& repository, const oci::Descriptor& blob, oci::BlobSource& source,
                                const std::vector<std::string>& mount_from, const TransferProgress& progress);

// As Client::grow_blob. The API must outlive the result.
std::unique_ptr<GrowingBlob> grow_blob(Api& api, Endpoint repository);

}  // namespace lamina::registry::internal
