def campaign_page(pages, links): return ""
