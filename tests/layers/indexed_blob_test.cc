// The tables of contents. Readers that are not ours, and every kind of file, are in tests/e2e/test_formats.py.
#include "layers/internal/indexed_blob.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <random>

#include "base/files.h"
#include "base/json.h"
#include "layers/compression.h"
#include "layers/store.h"
#include "layers/tar.h"
#include "tests/layers/make_entry.h"

using namespace lamina;
using namespace lamina::layers;

namespace {

std::string tar_of(const EntryList& entries) {
  StringSink sink;
  TarWriter writer(sink, std::nullopt);
  for (const Entry& entry : entries) REQUIRE(writer.add(entry));
  REQUIRE(writer.finish());
  return sink.text;
}

// A header block with its checksum, for what our writer does not write. `at` → text.
std::string header(const std::string& name, char type, uint64_t size, const std::map<size_t, std::string>& fields = {}) {
  std::string block(512, '\0');
  const auto put = [&](size_t at, const std::string& text) { block.replace(at, text.size(), text); };
  put(0, name);
  put(100, "0000644");
  put(124, fmt::format("{:011o}", size));
  put(136, "00000000005");
  block[156] = type;
  put(257, std::string("ustar\00000", 8));
  for (const auto& [at, text] : fields) put(at, text);
  put(148, "        ");
  unsigned sum = 0;
  for (const char c : block) sum += static_cast<unsigned char>(c);
  put(148, fmt::format("{:06o}", sum));
  block[154] = '\0';
  return block;
}

std::string padded(std::string text) {
  text.resize((text.size() + 511) / 512 * 512, '\0');
  return text;
}

const std::string kEnd(1024, '\0');

std::string decompressed(const std::string& bytes) {
  auto stream = decompress(std::make_unique<StringSource>(bytes));
  REQUIRE(stream);
  auto text = read_to_string(**stream, 1 << 30);
  REQUIRE(text);
  return *text;
}

struct Made {
  std::string bytes;
  IndexedBlob blob;
};

std::optional<Made> estargz(const std::string& tar, unsigned threads = 2) {
  ThreadPool pool(threads);
  StringSource source(tar);
  StringSink sink;
  auto made = write_estargz(source, 5, sink, pool);
  REQUIRE(made);
  if (!*made) return std::nullopt;
  CHECK(decompressed(sink.text).size() == (*made)->tar.size);
  return Made{sink.text, **made};
}

Made chunked(const std::string& tar, unsigned threads = 2) {
  ThreadPool pool(threads);
  StringSource source(tar);
  StringSink sink;
  auto made = write_zstd_chunked(source, 3, sink, pool);
  REQUIRE(made);
  CHECK(decompressed(sink.text) == tar);  // whatever it is
  CHECK(made->tar.sha256 == sha256(tar));
  return {sink.text, *made};
}

// The table of contents of an estargz: the content of its tar's last member.
json::Json toc_of(const Made& made) {
  const std::string tar = decompressed(made.bytes);
  StringSource source(tar);
  TarReader reader(source);
  std::string last;
  while (const auto entry = *reader.next()) {
    last = *read_to_string(reader.content(), 1 << 30);
    if (entry->path == "stargz.index.json") CHECK(made.blob.annotations.at(annotation::kEstargzToc) == "sha256:" + sha256_hex(last));
  }
  return *json::parse_object(last, "the table of contents");
}

std::vector<std::string> names_in(const std::string& tar) {
  std::vector<std::string> names;
  StringSource source(tar);
  TarReader reader(source);
  while (const auto entry = *reader.next()) names.push_back(entry->path);
  return names;
}

EntryList some_entries() {
  EntryList entries;
  entries.push_back(make_entry("a", EntryType::kDirectory));
  for (int i = 1000; i < 1400; ++i) entries.push_back(make_entry(fmt::format("a/{}", i), EntryType::kFile, std::string(static_cast<size_t>(i) * 7 % 3000, static_cast<char>(i))));
  entries.push_back(make_entry("b", EntryType::kFile, std::string((9 << 20) + 5, 'b')));
  entries.push_back(make_entry("c", EntryType::kHardlink, "b"));
  for (int i = 10000; i < 13000; ++i) entries.push_back(make_entry(fmt::format("d{}", i), EntryType::kSymlink, "a"));
  return entries;
}

}  // namespace

TEST_CASE("threads do not matter, and the tar is all there") {
  const std::string tar = tar_of(some_entries());
  const auto one = estargz(tar, 1), eight = estargz(tar, 8);
  REQUIRE(one);
  CHECK(one->bytes == eight->bytes);
  CHECK(one->blob.annotations == eight->blob.annotations);
  const Made single = chunked(tar, 1), several = chunked(tar, 8);
  CHECK(single.bytes == several.bytes);
  CHECK(single.blob.annotations == several.blob.annotations);
  CHECK(single.blob.annotations.size() == 3);
  // Files of three chunks have three entries; the landmark comes first.
  const json::Json toc = toc_of(*one);
  CHECK(toc["entries"].size() == 1 + some_entries().size() + 2);
  CHECK(toc["entries"][0]["name"] == ".no.prefetch.landmark");
}

TEST_CASE("an empty layer") {
  for (const std::string& tar : {kEnd, std::string(), kEnd + kEnd + kEnd}) {
    const auto made = estargz(tar);
    REQUIRE(made);
    CHECK(names_in(decompressed(made->bytes)) == std::vector<std::string>{".no.prefetch.landmark", "stargz.index.json"});
    CHECK(chunked(tar).blob.annotations.size() == 3);
  }
}

TEST_CASE("an estargz made again has one table of contents") {
  const std::string tar = tar_of({make_entry("a", EntryType::kFile, "1"), make_entry("b", EntryType::kFile, std::string(700, 'b'))});
  const auto first = estargz(tar);
  REQUIRE(first);
  const auto second = estargz(decompressed(first->bytes));
  REQUIRE(second);
  CHECK(second->bytes == first->bytes);
}

TEST_CASE("the names of the format are nobody else's") {
  const Entry landmark = make_entry(".no.prefetch.landmark", EntryType::kFile, "x");
  const Entry toc = make_entry("stargz.index.json", EntryType::kFile, "{}");
  const Entry file = make_entry("z", EntryType::kFile, "1");
  CHECK_FALSE(estargz(tar_of({toc})));
  CHECK_FALSE(estargz(tar_of({landmark, file})));
  CHECK_FALSE(estargz(tar_of({landmark, toc, file})));
  CHECK_FALSE(estargz(tar_of({make_entry("stargz.index.json", EntryType::kDirectory)})));
  CHECK(estargz(tar_of({make_entry("a", EntryType::kDirectory), make_entry("a/stargz.index.json", EntryType::kFile, "{}")})));
}

TEST_CASE("tars that no table of contents describes stay whole") {
  const std::string file = header("a", '0', 3) + padded("abc");
  struct Case {
    const char* name;
    std::string tar;
  };
  const Case cases[] = {
      {"the same name twice", file + file + kEnd},
      {"the same name, written otherwise", file + header("./a", '0', 0) + kEnd},
      {"a hard link to another layer", header("h", '1', 0, {{157, "elsewhere"}}) + kEnd},
      {"a hard link to what comes later", header("h", '1', 0, {{157, "a"}}) + file + kEnd},
      {"a name that is no UTF-8", header("\xff", '0', 0) + kEnd},
      {"a link to what is no UTF-8", header("l", '2', 0, {{157, "\xff"}}) + kEnd},
      {"a global header", header("g", 'g', 10) + padded("10 a=b2345\n") + file + kEnd},
      {"a sparse file", header("s", 'S', 0) + kEnd},
      {"a sparse file of pax", header("x", 'x', 22) + padded("22 GNU.sparse.major=1\n") + file + kEnd},
      {"a contiguous file", header("c", '7', 0) + kEnd},
      {"a directory from before POSIX", header("old/", '\0', 0) + kEnd},
      {"a link with a size", header("l", '2', 3, {{157, "a"}}) + kEnd},
      {"a time after the year 9999", header("x", 'x', 22) + padded("22 mtime=999999999999\n") + file + kEnd},
      {"a wrong checksum", file + std::string(512, 'x') + kEnd},
      {"a name of two kinds", header("x", 'x', 12) + padded("12 path=abc\n") + header("L", 'L', 3) + padded("xyz") + file + kEnd},
      {"something after the end", file + std::string(512, '\0') + file},
      {"an extended header of nothing", header("x", 'x', 12) + padded("12 path=abc\n") + kEnd},
      {"half a block", file + std::string(100, 'x')},
      {"star's times", header("s", '0', 0, {{508, std::string("tar\0", 4)}}) + kEnd},
  };
  for (const Case& c : cases) {
    const std::string name = c.name;
    CAPTURE(name);
    CHECK_FALSE(estargz(c.tar));
    CHECK(chunked(c.tar).blob.annotations.empty());
  }
}

TEST_CASE("what other writers put into headers is described as it is") {
  const std::string long_name(150, 'n');
  const std::string pax = "30 mtime=1350244992.023960108\n" "20 atime=1350244990\n" "25 SCHILY.xattr.user.a=\x01\n";
  const std::string gnu(std::string("ustar  \0", 8));
  const std::string tar = header("L", 'L', 151, {{257, gnu}}) + padded(long_name + '\0') + header("short", '0', 3, {{257, gnu}, {100, "0100755"}}) + padded("abc") +
                          header("x", 'x', pax.size()) + padded(pax) + header("y", '0', 0, {{345, "pre/fix"}, {108, "0001750"}}) + header("d/", '5', 0) +
                          header("dev", '3', 0, {{329, "0000005"}, {337, "0000001"}}) + kEnd;
  const auto made = estargz(tar);
  REQUIRE(made);
  const json::Json entries = toc_of(*made)["entries"];
  REQUIRE(entries.size() == 5);
  CHECK(entries[1]["name"] == long_name);
  CHECK(entries[1]["mode"] == 0100755);
  CHECK(entries[1]["digest"] == "sha256:" + sha256_hex("abc"));
  CHECK(entries[2]["name"] == "pre/fix/y");
  CHECK(entries[2]["uid"] == 1000);
  CHECK(entries[2]["modtime"] == "2012-10-14T20:03:12.023960108Z");
  CHECK(entries[2]["xattrs"]["user.a"] == "AQ==");
  CHECK(entries[3]["name"] == "d/");
  CHECK(entries[4]["devMajor"] == 5);
  CHECK(chunked(tar).blob.annotations.size() == 3);
}

TEST_CASE("a tar cut short is an error or stays as it is") {
  const std::string tar = header("a", '0', 3) + padded("abc") + header("b", '0', 600) + padded(std::string(600, 'b')) + kEnd;
  ThreadPool pool(2);
  for (size_t size = 0; size < tar.size(); size += 100) {
    CAPTURE(size);
    StringSource source(tar.substr(0, size)), again(tar.substr(0, size));
    StringSink sink, zstd;
    const auto made = write_estargz(source, 5, sink, pool);
    if (!made) CHECK(made.error().kind() == ErrorKind::kCorrupt);
    const auto other = write_zstd_chunked(again, 3, zstd, pool);
    if (!other) {
      CHECK(other.error().kind() == ErrorKind::kCorrupt);
    } else {
      CHECK(decompressed(zstd.text) == tar.substr(0, size));
    }
  }
}

TEST_CASE("any tar comes back from zstd:chunked byte for byte") {
  EntryList entries = {make_entry("a", EntryType::kFile, std::string(3000, 'a')), make_entry("b", EntryType::kSymlink, std::string(120, 'b')), make_entry("c", EntryType::kHardlink, "a"), make_entry(std::string(300, 'n'), EntryType::kFile, "n")};
  entries[0].xattrs["user.x"] = "value";
  const std::string tar = tar_of(entries);
  ThreadPool pool(2);
  const unsigned seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937 random(seed);
  int whole = 0;
  for (int i = 0; i < 500; ++i) {
    std::string damaged = tar;
    for (unsigned n = 1 + random() % 4; n > 0; --n) {
      const size_t at = random() % damaged.size();
      const unsigned how = random() % 3;
      if (how == 0) damaged[at] = static_cast<char>(random());
      if (how == 1) damaged.erase(at, random() % 700);
      if (how == 2) damaged.insert(at, damaged.substr(random() % damaged.size(), random() % 700));
    }
    StringSource source(damaged), again(damaged);
    StringSink sink, other;
    const auto made = write_zstd_chunked(source, 1, sink, pool);
    if (made) {
      ++whole;
      CHECK(decompressed(sink.text) == damaged);
    } else {
      CHECK(made.error().kind() == ErrorKind::kCorrupt);
    }
    const auto estargz_made = write_estargz(again, 1, other, pool);
    CHECK(estargz_made.has_value() == made.has_value());
  }
  CHECK(whole > 100);
}

TEST_CASE("the store keeps each form, and gives the layer's own tar back from none but its own") {
  TempDir dir = std::move(*TempDir::create("/tmp", "indexed-test"));
  ThreadPool pool(2);
  CompressionOptions with_toc;
  with_toc.indexed = true;
  const EntryList entries = {make_entry("a", EntryType::kFile, "1"), make_entry("b", EntryType::kFile, std::string(100000, 'x'))};
  oci::Digest digest;
  LayerId id;
  {
    auto store = *Store::open(dir.path() + "/store");
    id = *store->add_entries(entries, {}, LayerForm::kTar);
    const auto made = store->blob(id, with_toc, pool);
    REQUIRE(made);
    digest = made->descriptor.digest;
    CHECK(made->descriptor.annotations.size() == 2);
    CHECK(made->diff_id != *store->diff_id(id));
    const auto plain = store->blob(id, {}, pool);
    CHECK(plain->descriptor.annotations.empty());
    CHECK(plain->descriptor.digest != digest);
    CHECK(plain->diff_id == *store->diff_id(id));
    REQUIRE(store->remove_blob(plain->descriptor.digest));
    REQUIRE(store->remove_blob(store->diff_id(id)->as_uncompressed_digest()));
    CHECK(store->open_tar(id, nullptr).error().kind() == ErrorKind::kNotFound);
    const auto report = store->fsck(false);
    REQUIRE(report);
    CHECK(report->problems.size() == 1);  // nothing gives the layer's bytes
  }
  // The next program finds it in the layer's meta.
  auto store = *Store::open(dir.path() + "/store");
  const auto again = store->blob(id, with_toc, pool);
  REQUIRE(again);
  CHECK(again->descriptor.digest == digest);
  CHECK(again->descriptor.annotations.size() == 2);
  CHECK(again->diff_id != *store->diff_id(id));
}

TEST_CASE("a pulled blob that is here serves for its own form") {
  TempDir dir = std::move(*TempDir::create("/tmp", "indexed-test"));
  ThreadPool pool(2);
  auto store = *Store::open(dir.path() + "/store");
  const LayerId id = *store->add_entries({make_entry("a", EntryType::kFile, "1")}, {}, LayerForm::kTar);
  oci::Descriptor elsewhere;
  elsewhere.media_type = oci::media_type::kOciLayerZstd;
  const std::string bytes = "what a registry has";
  elsewhere.digest = oci::Digest::of(bytes);
  elsewhere.size = bytes.size();
  elsewhere.annotations = {{annotation::kChunkedChecksum, "sha256:" + elsewhere.digest.hex()}, {"com.example.note", "of that manifest"}};
  REQUIRE(*store->add_pulled(*store->diff_id(id), elsewhere) == id);
  REQUIRE(oci::put_blob(*store, elsewhere, bytes));
  CompressionOptions chunked_options;
  chunked_options.type = oci::Compression::kZstd;
  chunked_options.indexed = true;
  const auto same = store->blob(id, chunked_options, pool);
  REQUIRE(same);
  CHECK(same->descriptor.digest == elsewhere.digest);
  CHECK(same->descriptor.annotations.size() == 1);  // those of the form alone
  CHECK(same->diff_id == *store->diff_id(id));
  for (const oci::Compression type : {oci::Compression::kGzip, oci::Compression::kZstd}) {
    CompressionOptions plain;
    plain.type = type;
    const auto other = store->blob(id, plain, pool);
    REQUIRE(other);
    CHECK(other->descriptor.digest != elsewhere.digest);
    CHECK(other->descriptor.annotations.empty());
  }
}
