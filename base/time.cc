#include "base/time.h"

#include <fmt/format.h>

#include <ctime>

#include "base/text.h"

namespace lamina {
namespace {

constexpr int64_t kSecondsPerDay = 86400;
constexpr int64_t kDaysPerEra = 146097;  // 400 years of the Gregorian calendar

struct Date {
  int64_t year;
  unsigned month, day;
};

// Days since 1970-01-01 and dates, in years that begin on 1 March so that the leap day is the last.
// gmtime_r(3) and timegm(3) would do, but their range of years depends on `int`.
int64_t days_of(const Date& date) {
  const int64_t year = date.month <= 2 ? date.year - 1 : date.year;
  const int64_t era = (year >= 0 ? year : year - 399) / 400;
  const int64_t year_of_era = year - era * 400;
  const int64_t month_from_march = (date.month + 9) % 12;
  const int64_t day_of_year = (153 * month_from_march + 2) / 5 + date.day - 1;
  const int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
  return era * kDaysPerEra + day_of_era - 719468;
}

Date date_of(int64_t days) {
  days += 719468;
  const int64_t era = (days >= 0 ? days : days - (kDaysPerEra - 1)) / kDaysPerEra;
  const int64_t day_of_era = days - era * kDaysPerEra;
  const int64_t year_of_era =
      (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  const int64_t day_of_year =
      day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const int64_t month_from_march = (5 * day_of_year + 2) / 153;
  const auto month =
      static_cast<unsigned>(month_from_march < 10 ? month_from_march + 3 : month_from_march - 9);
  return {year_of_era + era * 400 + (month <= 2 ? 1 : 0), month,
          static_cast<unsigned>(day_of_year - (153 * month_from_march + 2) / 5 + 1)};
}

unsigned days_in_month(int64_t year, unsigned month) {
  const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  if (month == 2) return leap ? 29 : 28;
  return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

// Takes text apart from the left; once something does not fit, `ok` stays false.
struct Scanner {
  std::string_view rest;
  bool ok = true;

  unsigned number(size_t digits, unsigned low, unsigned high) {
    const auto value = parse_uint(rest.substr(0, digits));
    if (rest.size() < digits || !value || *value < low || *value > high) {
      ok = false;
      return low;
    }
    rest.remove_prefix(digits);
    return static_cast<unsigned>(*value);
  }
  bool take(char a, char b) {
    if (rest.empty() || (rest.front() != a && rest.front() != b)) return false;
    rest.remove_prefix(1);
    return true;
  }
  void expect(char a, char b) { ok = take(a, b) && ok; }
};

// The digits after the point; those after the ninth are dropped, as Go does.
uint32_t scan_nanoseconds(Scanner& scan) {
  if (!scan.take('.', '.')) return 0;
  uint32_t value = 0;
  size_t digits = 0;
  for (; !scan.rest.empty() && scan.rest.front() >= '0' && scan.rest.front() <= '9'; ++digits) {
    if (digits < 9) value = value * 10 + static_cast<uint32_t>(scan.rest.front() - '0');
    scan.rest.remove_prefix(1);
  }
  if (digits == 0) scan.ok = false;
  for (; digits < 9; ++digits) value *= 10;
  return value;
}

int64_t scan_offset_seconds(Scanner& scan) {
  if (scan.take('Z', 'z')) return 0;
  const bool west = scan.take('-', '-');
  if (!west) scan.expect('+', '+');
  const int64_t hours = scan.number(2, 0, 23);
  scan.expect(':', ':');
  const int64_t seconds = hours * 3600 + static_cast<int64_t>(scan.number(2, 0, 59)) * 60;
  return west ? -seconds : seconds;
}

}  // namespace

Timestamp now() {
  timespec t{};
  ::clock_gettime(CLOCK_REALTIME, &t);
  return {t.tv_sec, static_cast<uint32_t>(t.tv_nsec)};
}

std::string format_rfc3339(const Timestamp& t) {
  int64_t days = t.seconds / kSecondsPerDay;
  int64_t second = t.seconds % kSecondsPerDay;
  if (second < 0) {
    second += kSecondsPerDay;
    --days;
  }
  const Date date = date_of(days);
  std::string text = fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}", date.year, date.month,
                                 date.day, second / 3600, second / 60 % 60, second % 60);
  if (t.nanoseconds != 0) {
    text += fmt::format(".{:09}", t.nanoseconds);
    text.erase(text.find_last_not_of('0') + 1);
  }
  return text + 'Z';
}

std::optional<Timestamp> parse_rfc3339(std::string_view text) {
  Scanner scan{text};
  const int64_t year = scan.number(4, 0, 9999);
  scan.expect('-', '-');
  const unsigned month = scan.number(2, 1, 12);
  scan.expect('-', '-');
  const unsigned day = scan.number(2, 1, days_in_month(year, month));
  scan.expect('T', 't');
  const int64_t hour = scan.number(2, 0, 23);
  scan.expect(':', ':');
  const int64_t minute = scan.number(2, 0, 59);
  scan.expect(':', ':');
  const int64_t second = scan.number(2, 0, 59);
  const uint32_t nanoseconds = scan_nanoseconds(scan);
  const int64_t offset = scan_offset_seconds(scan);
  if (!scan.ok || !scan.rest.empty()) return std::nullopt;
  const int64_t days = days_of({year, month, day});
  return Timestamp{days * kSecondsPerDay + hour * 3600 + minute * 60 + second - offset,
                   nanoseconds};
}

}  // namespace lamina
