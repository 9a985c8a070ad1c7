// Files from http and https URLs. What was downloaded is kept as a blob of the store, with what the server said of it
// in the index "http-<sha256 of the URL>", so that the server is asked next time whether the file has changed and
// nothing is downloaded again when it has not.
//
// Index: "lamina-http 1\n", entity tag, Last-Modified, "1" when that is a strong validator, digest; a line each.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "base/result.h"
#include "base/time.h"
#include "builder/build.h"
#include "builder/internal/memo.h"
#include "builder/source_tree.h"
#include "layers/store.h"
#include "net/fetch.h"

namespace lamina::builder {

struct RemoteFile {
  oci::Digest digest;
  std::optional<Timestamp> last_modified;  // nothing when the server gave none, or when it was not asked
};

// Any thread.
class RemoteFiles {
 public:
  using Progress = std::function<void(uint64_t done, uint64_t total)>;  // total 0: unknown

  RemoteFiles(layers::Store& store, const BuildRequest& request, std::stop_token stop, std::function<void(const std::string&)> warn);

  // What the URL holds; the server is asked once a build. With `checksum` that is the answer and nobody is asked.
  // Errors as net::Fetcher::get.
  Result<RemoteFile> look_up(const std::string& url, const std::optional<oci::Digest>& checksum, const Progress& progress);
  // A checked file with those bytes: the store's own, or downloaded now. kCorrupt with both digests when the server has
  // others. `file` learns when it was changed.
  Result<std::string> path_of(const std::string& url, RemoteFile& file, const Progress& progress);

 private:
  struct Known;
  Result<Known> known_of(const std::string& url);
  Result<Known> download(const std::string& url, const Known& before, const std::optional<oci::Digest>& expected, const Progress& progress);
  Result<std::string> authorization_for(const std::string& url);

  layers::Store& store_;
  const BuildRequest& request_;
  net::Fetcher fetcher_;
  Memo<RemoteFile> looked_up_;  // by URL
};

// The last element of the URL's path, or "__unnamed__".
std::string file_name_of_url(const std::string& url);

// A tree with one file of mode 0600.
std::shared_ptr<const SourceTree> tree_of_file(std::string path, std::string name, uint64_t size, Timestamp mtime, const Sha256Bytes& digest);

}  // namespace lamina::builder
