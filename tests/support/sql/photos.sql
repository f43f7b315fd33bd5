-- Copyright: Contributors to the odkops.central collection
-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later
-- To be run behind small.sql: nearly all of the database is content that does not compress, as that of photos.
INSERT INTO blobs SELECT 100 + n, '', content, 'image/jpeg', md5(content), 'pending', length(content)
  FROM (SELECT n, string_agg(sha512(convert_to(n || '-' || part, 'UTF8')), '') AS content
    FROM generate_series(1, 40) n, generate_series(1, 240 * n + 1) part GROUP BY n) made;
