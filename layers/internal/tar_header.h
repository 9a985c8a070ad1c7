// Parsing of tar headers: numbers, checksums, pax records, sparse maps. Input is hostile.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "layers/internal/tar_format.h"

namespace lamina::layers::tar {

// The text up to the first NUL.
std::string_view text_field(const Header& header, Field field);
// Octal, or base-256 when the first bit is set (GNU). Blank is 0.
Result<int64_t> number_field(const Header& header, Field field, std::string_view what);
bool is_zero(const Header& header);
// Both the standard's unsigned sum and the signed one of old programs are accepted.
bool checksum_ok(const Header& header);

using PaxRecords = std::map<std::string, std::string>;
// An extent of a sparse file: `size` bytes of data at `offset`, zeros elsewhere.
struct Extent {
  uint64_t offset = 0, size = 0;
};
using SparseMap = std::vector<Extent>;

// Adds the records of one extended header; an empty value removes a record, xattrs excepted. The old GNU
// sparse keys, which repeat, are gathered under kSparsePairs as "offset,size,offset,size".
inline constexpr const char* kSparsePairs = "GNU.sparse.map";
Result<void> parse_pax(std::string_view body, PaxRecords& records);
// "1350244992.023960108", "-1.5".
Result<Timestamp> parse_pax_time(std::string_view text);
Result<uint64_t> parse_pax_uint(std::string_view text, std::string_view key);
// SCHILY.xattr.* key → name of the attribute.
std::string xattr_name(std::string_view key);

// Extents in ascending order, without overlap, within `file_size`, and `data_size` bytes in all.
Result<void> check_sparse(const SparseMap& map, uint64_t file_size, uint64_t data_size);

}  // namespace lamina::layers::tar
